"""From a conversation and its pictures to one sample of the network's input.

    processor = ChatProcessor(tokenizer=..., images=ImageSettings(), template="hub")
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]
    sample = processor.prompt(messages, images=["page.png"])

Samples have lengths of their own; `visor_jax.data.buckets` makes batches of them.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image
from transformers import PreTrainedTokenizerBase

from visor_jax.data.anyres import anyres_crops, frame_crops, square_crops
from visor_jax.data.chat_template import (
    TEMPLATES,
    Message,
    check_template,
    is_jinja,
    media,
    render,
)
from visor_jax.data.image_files import ImageInput, read_image
from visor_jax.data.image_settings import ImageSettings
from visor_jax.data.image_slots import Slots, anyres_slots, square_slots, video_slots
from visor_jax.data.token_layout import Layout, lay_out

# A video is its frames; files of videos are not decoded here.
VideoInput = Sequence[ImageInput] | np.ndarray
# One image, or several in the order of their places in the prompt; videos alike.
Images = ImageInput | Sequence[ImageInput] | None
Videos = VideoInput | Sequence[VideoInput] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One conversation as the network takes it, not yet padded.

    crops: (C, t, t, 3) of all images and video frames, in the order of the prompt.
    slots: which patches make the image tokens. layout: both streams of tokens.
    """

    crops: Float32[np.ndarray, "C t t 3"]
    slots: Slots
    layout: Layout

    @property
    def num_crops(self) -> int:
        return len(self.crops)

    @property
    def num_image_tokens(self) -> int:
        return self.slots.count

    @property
    def num_text_tokens(self) -> int:
        return len(self.layout.tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatProcessor:
    """Everything a checkpoint fixes about its input.

    template: one of `chat_template.TEMPLATES`. max_length: the context, image tokens
    included; None for no limit.
    """

    tokenizer: PreTrainedTokenizerBase
    images: ImageSettings
    template: str = "qwen_1_5"
    max_length: int | None = 32768

    def __post_init__(self) -> None:
        check_template(self.template)

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        images: Images = None,
        videos: Videos = None,
        room: int = 0,
    ) -> Sample:
        """Returns a conversation that the assistant is to continue.

        Args:
          images, videos: in the order of their places; None for those that the messages
            carry themselves. Exactly one image is cut into tiles; several become one
            crop each, as with `apply_chat_template` of transformers.
          room: new tokens that the context must have room for.

        Raises:
          ValueError: for an image that cannot be read, messages of another form, places
            that do not match, or a prompt that is too long.
        """
        return self._sample(messages, images, videos, "none", room)

    def training(
        self,
        messages: Sequence[Message],
        *,
        images: Images = None,
        videos: Videos = None,
        supervision: str = "assistant",
    ) -> Sample:
        """Returns a complete conversation with the loss on the assistant's words.

        Args:
          supervision: "assistant" or "llava_next", see `token_layout`.

        Raises:
          ValueError: as `prompt`; if nothing is left to train; and for a template that
            does not say which words are the assistant's.
        """
        if is_jinja(self.template):
            raise ValueError(
                "The checkpoint's own chat template does not say which words to train: "
                f"choose one of {sorted(TEMPLATES)}."
            )
        return self._sample(messages, images, videos, supervision, 0)

    def _sample(
        self,
        messages: Sequence[Message],
        images: Images,
        videos: Videos,
        supervision: str,
        room: int,
    ) -> Sample:
        pieces = render(
            messages, self.template, generation_prompt=supervision == "none"
        )
        given_images = _given(messages, "image", image_list(images))
        given_videos = _given(messages, "video", video_list(videos))
        pictures = _image_parts(given_images, self.images)
        films = _video_parts(video_list(given_videos) or [], self.images)
        layout = lay_out(
            pieces,
            self.tokenizer,
            images=[slots.count for _, slots in pictures],
            videos=[slots.count for _, slots in films],
            supervision=supervision,
            max_length=self.max_length,
            room=room,
        )
        parts = {"image": pictures, "video": films}
        ordered = [parts[kind][number] for kind, number in layout.media]
        size = self.images.tile_size
        empty = np.zeros((0, size, size, 3), np.float32)
        return Sample(
            crops=np.concatenate([crops for crops, _ in ordered] or [empty]),
            slots=Slots.concat(
                [slots for _, slots in ordered], self.images.patches_per_crop
            ),
            layout=layout,
        )


def image_list(images: Images) -> list[ImageInput] | None:
    """Returns the images as a list; None for none given.

    Raises:
      ValueError: for what is neither an image nor a list.
    """
    if images is None:
        return None
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray):
        return [images]
    raise ValueError(
        f"Images must be an image or a list of images, not a {type(images).__name__}."
    )


def video_list(videos: Videos) -> list[VideoInput] | None:
    """Returns the videos as a list, each a list of frames; None for none given.

    A flat list of frames is one video, as in transformers.

    Raises:
      ValueError: for what is neither a video nor a list of videos; files of videos are
        not decoded here.
    """
    if videos is None:
        return None
    if isinstance(videos, np.ndarray):
        videos = [videos] if videos.ndim == 4 else list(videos)
    if not isinstance(videos, list | tuple):
        raise ValueError(f"{_NO_VIDEO} got {videos!r:.80}.")
    if videos and all(_is_frame(each) for each in videos):
        return [list(videos)]
    wrong = [each for each in videos if not _is_frames(each)]
    if wrong:
        raise ValueError(f"{_NO_VIDEO} got {wrong[0]!r:.80} among them.")
    return list(videos)


_NO_VIDEO = (
    "A video is the list of its frames (decode a file first), and videos are a list of "
    "those:"
)


def _is_frame(each: Any) -> bool:
    flat = isinstance(each, np.ndarray) and each.ndim in (2, 3)
    return flat or isinstance(each, Image.Image)


def _is_frames(each: Any) -> bool:
    if isinstance(each, np.ndarray):
        return each.ndim == 4 and len(each) > 0
    return isinstance(each, list | tuple) and len(each) > 0


def _given(
    messages: Sequence[Message], kind: str, beside: list[Any] | None
) -> list[Any]:
    """Returns the images or videos, from the messages or from beside them."""
    carried = media(messages, kind)
    if beside is None:
        return carried
    if carried and beside:
        raise ValueError(
            f"{len(carried)} {kind}s are in the messages and {len(beside)} beside "
            "them: give them in one place."
        )
    return carried or beside


def _image_parts(
    images: Sequence[ImageInput], settings: ImageSettings
) -> list[tuple[np.ndarray, Slots]]:
    if len(images) == 1:
        pixels = read_image(images[0])
        slots = anyres_slots(*pixels.shape[:2], settings)
        return [(anyres_crops(pixels, settings), slots)]
    parts = []
    for number, image in enumerate(images, 1):
        pixels = read_image(image, name=f"image {number} of {len(images)}")
        parts.append((square_crops([pixels], settings), square_slots(settings)))
    return parts


def _video_parts(
    videos: Sequence[VideoInput], settings: ImageSettings
) -> list[tuple[np.ndarray, Slots]]:
    parts = []
    for number, video in enumerate(videos, 1):
        frames = [
            read_image(frame, name=f"frame {i} of video {number}")
            for i, frame in enumerate(video, 1)
        ]
        slots = video_slots(len(frames), settings)
        parts.append((frame_crops(frames, settings), slots))
    return parts
