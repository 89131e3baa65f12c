"""From the body of a chat request to a request of the engine.

Nothing of a stranger's text opens a file: an image is a data URI, or is fetched by what
the server was given to fetch with, if it was.
"""

import asyncio
import dataclasses
import io
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from visor_jax.data.images.file_kinds import HEAD, is_video, remedy_for
from visor_jax.data.images.image_source import from_url
from visor_jax.data.images.read_image import formats, read_image
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.chat_request import (
    ChatMessage,
    ChatRequest,
    ImagePart,
    ImageUrl,
)
from visor_jax.inference.server.server_settings import ServerSettings
from visor_jax.runtime.arguments import shown

# The content of an http(s) address. Raises `ApiError` for one that is not fetched.
Fetch = Callable[[str], Awaitable[bytes]]
# Pictures that are made smaller at once.
_AT_ONCE = 2
# Characters of a data URI, and pixels of an image, that are read in about the time in
# which a thread takes over.
_SMALL, _FEW_PIXELS = 100_000, 256 * 256
# What a picture of few bytes can unpack much of, before its pixels.
_UNPACKED = (b"zTXt", b"iTXt", b"iCCP")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Translator:
    """How bodies of requests are read.

    new_tokens: of an answer, at most. crop_size: pixels on a side of a crop. fetch: of
    http(s) addresses; None has them refused.
    """

    settings: ServerSettings
    new_tokens: int
    crop_size: int
    fetch: Fetch | None = None
    _shrinking: asyncio.Semaphore = dataclasses.field(
        default_factory=lambda: asyncio.Semaphore(_AT_ONCE)
    )

    async def request(self, chat: ChatRequest) -> Request:
        """Returns the request of the engine.

        Raises:
          ApiError: for what cannot be answered as it is asked.
        """
        options = self._options(chat)
        images = [part for each in chat.messages for part in _images(each)]
        most = self.settings.max_images
        if len(images) > most:
            why = f"{len(images)} images are more than the {most} that are taken."
            raise ApiError(400, f"{why} Send fewer.", param="messages")
        messages = [await self._message(message) for message in chat.messages]
        return Request(messages, options=options)

    def _options(self, chat: ChatRequest) -> AnswerOptions:
        settings, most = self.settings, self.new_tokens
        if (chat.new_tokens or 0) > most:
            why = (
                f"{chat.new_tokens} new tokens are more than the {most} of this server"
            )
            raise ApiError(400, f"{why}: ask for fewer.", param="max_tokens")
        budget = settings.budget if chat.budget is None else str(chat.budget)
        try:
            return AnswerOptions(
                budget=budget,
                cost=chat.cost,
                crops=settings.look if chat.crops is None else chat.crops,
                max_new_tokens=chat.new_tokens,
                sampling=_sampling(chat, settings.sampling),
                seed=chat.seed,
                stop=chat.stops or settings.stop,
            )
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    async def _message(self, message: ChatMessage) -> Mapping[str, Any]:
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, str):
            return {"role": role, "content": message.content}
        parts: list[dict[str, Any]] = []
        for part in message.content:
            if isinstance(part, ImagePart):
                image = await self._image(part.image_url)
                parts.append({"type": "image", "image": image})
            else:
                parts.append({"type": "text", "text": part.text})
        return {"role": role, "content": parts}

    async def _image(self, image: ImageUrl) -> bytes | np.ndarray:
        """Returns the image's bytes; its pixels where it is a small one, or to be one.

        A small one is read here: the thread that has the engine has more to do.
        """
        content = await self._content(image.url)
        try:
            check, is_low = (content, self.settings.max_pixels), image.detail == "low"
            if len(content) < _SMALL and not any(kind in content for kind in _UNPACKED):
                if _checked_size(*check) <= _FEW_PIXELS:
                    side = self.crop_size
                    return _shrunk(content, side) if is_low else read_image(content)
            else:
                await asyncio.to_thread(_checked_size, *check)
            if not is_low:
                return content
            async with self._shrinking:
                return await asyncio.to_thread(_shrunk, content, self.crop_size)
        except ValueError as error:
            raise ApiError(422, str(error), param="messages") from error

    async def _content(self, url: str) -> bytes:
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            try:
                if len(url) < _SMALL:
                    content = from_url(url, "the image")
                else:
                    # Megabytes of base64 would keep all others waiting.
                    content = await asyncio.to_thread(from_url, url, "the image")
            except ValueError as error:
                raise ApiError(400, str(error), param="messages") from error
            assert isinstance(content, bytes)
            return content
        if scheme not in ("http", "https"):
            why = f"image_url {shown(url)} is neither a data URI nor an http address."
            raise ApiError(400, why, param="messages")
        if self.fetch is None:
            why = f"image_url {shown(url)}: this server fetches nothing from the net"
            remedy = "send the image as a data URI"
            raise ApiError(400, f"{why}; {remedy}.", param="messages")
        return await self.fetch(url)


def _images(message: ChatMessage) -> list[ImagePart]:
    if isinstance(message.content, str):
        return []
    return [part for part in message.content if isinstance(part, ImagePart)]


def _sampling(chat: ChatRequest, default: Sampling) -> Sampling:
    """Returns how tokens are chosen. Raises ValueError for an impossible setting."""
    said = {
        "temperature": chat.temperature,
        "top_k": chat.top_k,
        "top_p": chat.top_p,
        "repetition_penalty": chat.repetition_penalty,
    }
    # A client's way to say nothing of it.
    if chat.top_p == 1:
        said["top_p"] = None
    said = {name: value for name, value in said.items() if value is not None}
    if chat.temperature == 0:
        # What the server draws from is of no meaning where nothing is drawn.
        default = dataclasses.replace(default, temperature=0, top_k=None, top_p=None)
    return dataclasses.replace(default, **said)


def _checked_size(content: bytes, max_pixels: int) -> int:
    """Returns an image's pixels in number; decodes nothing.

    Raises:
      ValueError: for what is no image, or a larger one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        why = f"more than {max_pixels} pixels"
        raise ValueError(f"An image has {why}; make it smaller first.") from None
    except Exception as error:
        remedy = remedy_for(content[:HEAD])
        if remedy is None and is_video(content[:HEAD]):
            remedy = "is a video: send some of its frames as images"
        if remedy is not None:
            raise ValueError(f"An image {remedy}.") from error
        raise ValueError("An image is damaged, or none that is read here.") from error
    if width * height > max_pixels:
        why = f"{width}x{height} pixels, more than {max_pixels}"
        raise ValueError(f"An image has {why}; make it smaller first.")
    return width * height


def _shrunk(content: bytes, side: int) -> np.ndarray:
    """Returns the pixels of an image that is made no larger than a crop."""
    image = Image.fromarray(read_image(content))
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)
