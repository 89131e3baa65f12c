"""What a user asks: text or messages, with the pictures that they speak of."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from visor_jax.data.images.clip import Clip
from visor_jax.data.images.image_source import BinaryFile, content_of
from visor_jax.data.images.read_image import ArrayLike, ImageInput, as_array
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.messages import (
    IMAGE,
    VIDEO,
    Message,
)
from visor_jax.runtime.arguments import instance_of, shown, whole_number

# A video file or an animation, or the frames themselves.
VideoInput = Clip | Sequence[ImageInput] | ArrayLike
# One image, or several in the order of their places in the prompt; videos alike.
Images = ImageInput | Sequence[ImageInput] | None
Videos = VideoInput | Sequence[VideoInput] | None
# A text, or chat messages.
Prompt = str | Sequence[Message]

# Neither arrays nor files: to ask a protocol takes longer.
_PLAIN = (bytes, str, list, tuple)
_NO_VIDEO = (
    "A video is a file or the list of its frames, and videos are a list of those:"
)


def image_list(images: Images) -> list[ImageInput] | None:
    """Returns the images as a list; None for none given.

    Raises:
      ValueError: for what is neither an image nor a list.
    """
    if images is None:
        return None
    if _dimensions(images) == 4:
        images = list(as_array(images, "the images"))
    if isinstance(images, list | tuple):
        return [_kept(each) for each in images]
    if isinstance(images, ImageInput):
        return [_kept(images)]
    raise ValueError(
        f"Images must be an image or a list of images, not a {type(images).__name__}: "
        f"{shown(images)}."
    )


def _kept(image: Any) -> Any:
    """Returns the image; of an open file the bytes, which stay when it is closed."""
    if isinstance(image, _PLAIN):
        return image
    return content_of(image, "the file") if isinstance(image, BinaryFile) else image


def video_list(videos: Videos) -> list[VideoInput] | None:
    """Returns the videos as a list, each a file or a list of frames; None for none.

    A flat list of arrays or PIL images is one video, as in transformers; one of files
    is several.

    Raises:
      ValueError: for what is neither a video nor a list of videos.
    """
    if videos is None:
        return None
    if isinstance(videos, Clip):
        videos = [videos]
    if (_dimensions(videos) or 0) > 3:
        array = as_array(videos, "the videos")
        videos = [array] if array.ndim == 4 else list(array)
    if not isinstance(videos, list | tuple):
        raise ValueError(f"{_NO_VIDEO} got {shown(videos)}.")
    if videos and all(_is_frame(each) for each in videos):
        return [list(videos)]
    wrong = [each for each in videos if not _is_video(each)]
    if wrong:
        raise ValueError(f"{_NO_VIDEO} got {shown(wrong[0])} among them.")
    return [_kept(each) for each in videos]


def _dimensions(each: Any) -> int | None:
    """Returns how many dimensions an array has, None for what is none."""
    if isinstance(each, _PLAIN):
        return None
    is_array = isinstance(each, ArrayLike) and not isinstance(each, Image.Image)
    return np.ndim(each) if is_array else None


def _is_frame(each: Any) -> bool:
    return _dimensions(each) in (2, 3) or isinstance(each, Image.Image)


def _is_video(each: Any) -> bool:
    if _dimensions(each) is not None:
        return _dimensions(each) == 4 and len(each) > 0
    is_list = isinstance(each, list | tuple) and len(each) > 0
    return is_list or isinstance(each, Clip)


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to answer.

    prompt: a text, or a list of chat messages. A text may say with "<image>" and
      "<video>" where images stand; if it does not, they come first. Where there are no
      images these are words like any other.
    images: one, or a list in the order of their places. videos: files, or lists of
      frames; one flat list of frames is one video.
    draw: tells the engine's random draws for it from those for others; None for its
      number in the order of asking.
    options: how it is answered, where that is not as all others are.

    Raises ValueError for what is neither.
    """

    prompt: Prompt
    images: Images = None
    videos: Videos = None
    draw: int | None = None
    options: AnswerOptions = dataclasses.field(default_factory=AnswerOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str | list | tuple):
            raise ValueError(
                f"prompt={shown(self.prompt)} is neither a text nor a list of messages."
            )
        if self.draw is not None:
            draw = whole_number(self.draw, "draw", least=0, most=2**31 - 1)
            object.__setattr__(self, "draw", draw)
        remedy = "write visor_jax.AnswerOptions(max_new_tokens=...)"
        instance_of(self.options, AnswerOptions, "options", remedy)
        object.__setattr__(self, "images", image_list(self.images))
        object.__setattr__(self, "videos", video_list(self.videos))

    def messages(self) -> Sequence[Message]:
        """Returns the prompt as chat messages."""
        if not isinstance(self.prompt, str):
            return self.prompt
        content: Any = self.prompt
        has_places = (self.images and IMAGE in content) or (
            self.videos and VIDEO in content
        )
        if not has_places:
            places = [{"type": "image"}] * len(self.images or ())
            places += [{"type": "video"}] * len(self.videos or ())
            content = [*places, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]
