"""From a conversation and its pictures to one sample of the network's input.

    processor = ChatProcessor(tokenizer=..., images=ImageSettings(), template="hub")
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]
    sample = processor.prompt(messages, images=["page.png"])

Samples have lengths of their own; `visor_jax.data.buckets` makes batches of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from transformers import PreTrainedTokenizerBase

from visor_jax.data.anyres import anyres_crops, frame_crops, square_crops
from visor_jax.data.chat_template import Message, check_template, media, render
from visor_jax.data.image_files import ImageInput, read_image
from visor_jax.data.image_settings import ImageSettings
from visor_jax.data.image_slots import Slots, anyres_slots, square_slots, video_slots
from visor_jax.data.token_layout import Layout, lay_out

# A video is its frames; files of videos are not decoded here.
VideoInput = Sequence[ImageInput] | np.ndarray


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
        images: Sequence[ImageInput] | None = None,
        videos: Sequence[VideoInput] | None = None,
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
        images: Sequence[ImageInput] | None = None,
        videos: Sequence[VideoInput] | None = None,
        supervision: str = "assistant",
    ) -> Sample:
        """Returns a complete conversation with the loss on the assistant's words.

        Args:
          supervision: "assistant" or "llava_next", see `token_layout`.

        Raises:
          ValueError: as `prompt`; and if nothing is left to train.
        """
        return self._sample(messages, images, videos, supervision, 0)

    def _sample(
        self,
        messages: Sequence[Message],
        images: Sequence[ImageInput] | None,
        videos: Sequence[VideoInput] | None,
        supervision: str,
        room: int,
    ) -> Sample:
        pieces = render(
            messages, self.template, generation_prompt=supervision == "none"
        )
        pictures = _image_parts(_given(messages, "image", images), self.images)
        films = _video_parts(_given(messages, "video", videos), self.images)
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


def _given(
    messages: Sequence[Message], kind: str, beside: Sequence[Any] | None
) -> Sequence[Any]:
    """Returns the images or videos, from the messages or from beside them."""
    carried = media(messages, kind)
    if beside is None:
        return carried
    if isinstance(beside, str | bytes):
        raise ValueError(f"{kind}s must be a list of {kind}s, also if there is one.")
    if carried and len(beside):
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
        if isinstance(video, str | bytes) or len(video) == 0:
            raise ValueError(
                f"Video {number} of {len(videos)} must be a list of its frames, at "
                f"least one; got {video!r:.80}."
            )
        frames = [
            read_image(frame, name=f"frame {i} of video {number}")
            for i, frame in enumerate(video, 1)
        ]
        slots = video_slots(len(frames), settings)
        parts.append((frame_crops(frames, settings), slots))
    return parts
