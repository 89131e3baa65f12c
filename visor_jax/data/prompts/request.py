"""What a user asks: text or messages, with the pictures that they speak of."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from visor_jax.data.images.read_image import ImageInput
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.chat_template import (
    IMAGE,
    VIDEO,
    Message,
)

# A video is its frames; files of videos are not decoded here.
VideoInput = Sequence[ImageInput] | np.ndarray
# One image, or several in the order of their places in the prompt; videos alike.
Images = ImageInput | Sequence[ImageInput] | None
Videos = VideoInput | Sequence[VideoInput] | None
# A text, or chat messages.
Prompt = str | Sequence[Message]

_NO_VIDEO = (
    "A video is the list of its frames (decode a file first), and videos are a list of "
    "those:"
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


def _is_frame(each: Any) -> bool:
    flat = isinstance(each, np.ndarray) and each.ndim in (2, 3)
    return flat or isinstance(each, Image.Image)


def _is_frames(each: Any) -> bool:
    if isinstance(each, np.ndarray):
        return each.ndim == 4 and len(each) > 0
    return isinstance(each, list | tuple) and len(each) > 0


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to answer.

    prompt: a text, or a list of chat messages. A text may say with "<image>" and
      "<video>" where images stand; if it does not, they come first.
    images: one, or a list in the order of their places. videos: lists of frames; one
      flat list is one video.
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
        if self.draw is not None and not 0 <= self.draw < 2**31:
            raise ValueError(f"draw={self.draw} is not in 0..{2**31 - 1}.")
        object.__setattr__(self, "images", image_list(self.images))
        object.__setattr__(self, "videos", video_list(self.videos))

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
