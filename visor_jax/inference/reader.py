"""Between a user and a network: messages become samples, tokens become text.

reader = chat_reader(config, folder)            # or page_reader(tokenizer)
sample = reader.sample(Request("What is this?", images=["photo.jpg"]), room=256)
batch = reader.buckets.batch([sample], reader.buckets.choose(sample))
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from visor_jax.data.buckets import Buckets
from visor_jax.data.chat_template import IMAGE, VIDEO, Message
from visor_jax.data.image_files import ImageInput
from visor_jax.data.image_settings import ImageSettings
from visor_jax.data.image_slots import square_slots, video_slots
from visor_jax.data.page_prompts import PageProcessor
from visor_jax.data.samples import ChatProcessor, Sample, VideoInput
from visor_jax.data.token_layout import placeholder_ids
from visor_jax.data.tokenizer import load_tokenizer
from visor_jax.inference.decode import EndTokens, end_tokens
from visor_jax.models.config import VLMConfig

# A Hugging Face tokenizer; `visor_jax.data` alone imports that package.
Tokenizer = Any

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
GENERATION = "generation_config.json"
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
# What decoders put in place of bytes that are no character yet.
_INCOMPLETE = "\ufffd"
_TEXT_LENGTHS = (64, 256, 1024, 4096)
_NEW_TOKENS = {"page": 8, "chat": 256}
# Scale of the tower's pixels.
_SIGLIP = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to answer.

    prompt: a text, or a list of chat messages. A text may say with "<image>" and
      "<video>" where images stand; if it does not, they come first.
    images, videos: in the order of their places; a video is its frames.
    """

    prompt: str | Sequence[Message]
    images: Sequence[ImageInput] | None = None
    videos: Sequence[VideoInput] | None = None

    def messages(self) -> Sequence[Message]:
        """Returns the prompt as chat messages."""
        if not isinstance(self.prompt, str):
            return self.prompt
        content: Any = self.prompt
        if IMAGE not in content and VIDEO not in content:
            places = [{"type": "image"}] * len(self.images or ())
            places += [{"type": "video"}] * len(self.videos or ())
            content = [*places, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]


class Processor(Protocol):
    """`ChatProcessor` or `PageProcessor`."""

    tokenizer: Tokenizer

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        images: Sequence[ImageInput] | None = None,
        videos: Sequence[VideoInput] | None = None,
        room: int = 0,
    ) -> Sample: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """Everything about text and pictures that a checkpoint fixes.

    eos_ids: any of them ends an answer. new_tokens: of an answer, by default.
    """

    processor: Processor
    buckets: Buckets
    eos_ids: tuple[int, ...]
    pad_id: int
    new_tokens: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.processor.tokenizer

    def sample(self, request: Request, *, room: int) -> Sample:
        """Returns the request as the network takes it.

        Args:
          room: tokens of the answer that the context must have room for.

        Raises:
          ValueError: for an image that cannot be read, messages of another form, places
            that do not match the images, or a prompt that is too long.
        """
        return self.processor.prompt(
            request.messages(),
            images=request.images,
            videos=request.videos,
            room=room,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the answer that these tokens are, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yields the text of an answer as its tokens come; joined, it is `text`.

        Characters of several tokens come when they are complete.
        """
        seen: list[int] = []
        given = ""
        for token in tokens:
            if token in self.eos_ids:
                break
            seen.append(token)
            text = self.text(seen)
            if text.endswith(_INCOMPLETE):
                continue
            yield text[len(given) :]
            given = text
        rest = self.text(seen)[len(given) :]
        if rest:
            yield rest


def page_reader(tokenizer: Tokenizer) -> Reader:
    """Returns the reader of a network of the embedded benchmark."""
    processor = PageProcessor(tokenizer=tokenizer)
    return Reader(
        processor=processor,
        buckets=processor.buckets(),
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
        new_tokens=_NEW_TOKENS["page"],
    )


def chat_reader(
    config: VLMConfig,
    folder: Path,
    *,
    source: Mapping[str, Any] | None = None,
    template: str | None = None,
) -> Reader:
    """Returns the reader of a LLaVA-OneVision.

    Args:
      folder: with the files of its tokenizer and processor.
      source: its config.json; None if the network was not imported.
      template: of the chat; None for the published one if the folder has it ("hub"),
        else the one of the original weights ("qwen_1_5").

    Raises:
      ValueError: if files are missing or damaged, or ask for what is not supported.
    """
    tokenizer = _tokenizer(folder)
    generation = _json(folder / GENERATION)
    if template is None:
        published = any((folder / name).exists() for name in CHAT_TEMPLATES)
        template = "hub" if published else "qwen_1_5"
    eos = generation.get("eos_token_id", tokenizer.eos_token_id)
    if eos is None:
        raise ValueError(
            f"{folder}: neither {GENERATION} nor the tokenizer says which "
            "token ends an answer."
        )
    _check_places(tokenizer, folder, source or {})
    settings = _image_settings(config, folder, source)
    processor = ChatProcessor(
        tokenizer=tokenizer,
        images=settings,
        template=template,
        max_length=config.decoder.max_positions,
    )
    return Reader(
        processor=processor,
        buckets=_buckets(settings, config, pad_id=_pad_id(tokenizer, eos)),
        eos_ids=end_tokens(eos),
        pad_id=_pad_id(tokenizer, eos),
        new_tokens=_NEW_TOKENS["chat"],
    )


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        return load_tokenizer(folder)
    # What is missing or damaged raises classes of several libraries.
    except Exception as error:
        raise ValueError(
            f"{folder} has no tokenizer that can be read ({error!s:.200}): it needs "
            "tokenizer.json and tokenizer_config.json of the checkpoint."
        ) from error


def _check_places(
    tokenizer: Tokenizer, folder: Path, source: Mapping[str, Any]
) -> None:
    """Raises ValueError unless configuration and tokenizer mean the same tokens."""
    for kind, found in placeholder_ids(tokenizer).items():
        stated = source.get(
            f"{kind}_token_index", source.get(f"{kind}_token_id", found)
        )
        if stated != found:
            raise ValueError(
                f"{folder}: the place of an {kind} is token {stated} in config.json "
                f"but {found} in the tokenizer: they do not belong together."
            )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): download it again.") from error


def _image_settings(
    config: VLMConfig, folder: Path, source: Mapping[str, Any] | None
) -> ImageSettings:
    vision = config.vision
    sides = [vision.image_size * count for count in range(1, 7)]
    fields = {
        # The default of transformers, which leaves defaults out of the files it writes.
        "image_grid_pinpoints": [
            [rows, columns] for rows in sides for columns in sides
        ],
        **(source or {}),
        "vision_config": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
    }
    processor = _json(folder / PREPROCESSOR) or _json(folder / PROCESSOR)
    # Folders of the original code have neither file.
    return ImageSettings.from_hf(fields, processor or _SIGLIP)


def _pad_id(tokenizer: Tokenizer, eos: EndTokens) -> int:
    pad = tokenizer.pad_token_id
    return end_tokens(eos)[0] if pad is None else pad


def _buckets(settings: ImageSettings, config: VLMConfig, *, pad_id: int) -> Buckets:
    """Returns a ladder up to whatever the context can hold."""
    most = config.decoder.max_positions
    texts = [length for length in _TEXT_LENGTHS if length < most]
    return Buckets.ladder(
        settings,
        pad_id=pad_id,
        text_tokens=(*texts, most),
        max_images=most // square_slots(settings).count,
        max_frames=most // video_slots(1, settings).count,
    )
