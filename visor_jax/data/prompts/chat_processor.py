"""From a conversation and its pictures to one sample of the network's input.

    processor = ChatProcessor(tokenizer=..., images=ImageSettings(), template="hub")
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]
    sample = processor.prompt(messages, images=["page.png"])

Samples have lengths of their own; `visor_jax.data.buckets` makes batches of them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from visor_jax.data.images.anyres import frame_crops, square_crops
from visor_jax.data.images.clip import Clip, read_clip
from visor_jax.data.images.cut_image import CutImage, Cutter, cut_image
from visor_jax.data.images.frame_choice import FRAMES
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import (
    PatchIndex,
    square_patch_index,
    video_patch_index,
)
from visor_jax.data.images.read_image import ImageInput, read_image
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.data.prompts.chat_template import (
    TEMPLATES,
    check_template,
    is_jinja,
    render,
)
from visor_jax.data.prompts.messages import Message, media, read_messages
from visor_jax.data.prompts.piece import Piece
from visor_jax.data.prompts.prompt_tokens import check_special_tokens
from visor_jax.data.prompts.request import (
    Images,
    VideoInput,
    Videos,
    image_list,
    video_list,
)
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout, lay_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatProcessor:
    """Everything a checkpoint fixes about its input.

    template: one of `chat_template.TEMPLATES`. max_length: the context, image tokens
    included; None for no limit. special_tokens: one of `prompt_tokens.SPECIAL_TOKENS`.
    frames: seen of a clip, at most (`frame_choice`). fetch: gets images and clips from
    the net (`url_fetching`); None to refuse their URLs. cut: makes crops and tokens of
    a prompt's only image.
    """

    tokenizer: PreTrainedTokenizerBase
    images: ImageSettings
    template: str = "qwen_1_5"
    max_length: int | None = 32768
    special_tokens: str = "plain"
    frames: int = FRAMES
    fetch: Fetch | None = None
    cut: Cutter = cut_image

    def __post_init__(self) -> None:
        check_template(self.template)
        check_special_tokens(self.special_tokens)

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
        messages = read_messages(messages)
        beside = image_list(images), video_list(videos)
        pieces = self.pieces(
            messages,
            generation_prompt=True,
            images=len(beside[0] or ()),
            videos=len(beside[1] or ()),
        )
        pictures = self._pictures(self._given(messages, "image", beside[0]))
        films = self._films(self._given(messages, "video", beside[1]))
        layout = lay_out(
            pieces,
            self.tokenizer,
            images=[part.patch_index.count for part in pictures],
            videos=[part.patch_index.count for part in films],
            max_length=self.max_length,
            room=room,
        )
        return self._assembled(layout, pictures, films)

    def check_tells_speakers(self) -> None:
        """Raises ValueError for a template that does not say which words to train."""
        if is_jinja(self.template):
            raise ValueError(
                "The checkpoint's own chat template does not say which words to train: "
                f"choose one of {sorted(TEMPLATES)}."
            )

    def pieces(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        images: int = 0,
        videos: int = 0,
    ) -> list[Piece]:
        """Returns the prompt's text. Arguments and errors as `chat_template.render`."""
        found = render(
            messages,
            self.template,
            generation_prompt=generation_prompt,
            images=images,
            videos=videos,
        )
        if self.special_tokens == "plain":
            return found
        return [dataclasses.replace(piece, given=False) for piece in found]

    def of_layout(self, layout: Layout, images: Sequence[ImageInput]) -> Sample:
        """Returns the sample of a layout that is known, with its images cut.

        Raises:
          ValueError: for an image that cannot be read, and for images that have not the
            tokens which the layout has places for.
        """
        pictures = self._pictures(images)
        found = sum(part.patch_index.count for part in pictures)
        if found != len(layout.image_positions):
            raise ValueError(
                f"its images make {found} tokens and the text has "
                f"{len(layout.image_positions)} places for them"
            )
        return self._assembled(layout, pictures, [])

    def _assembled(
        self, layout: Layout, pictures: list[CutImage], films: list[CutImage]
    ) -> Sample:
        parts = {"image": pictures, "video": films}
        ordered = [parts[kind][number] for kind, number in layout.media]
        size = self.images.tile_size
        crops = [part.crops for part in ordered]
        crops = crops or [np.zeros((0, size, size, 3), np.float32)]
        return Sample(
            crops=crops[0] if len(crops) == 1 else np.concatenate(crops),
            patch_index=PatchIndex.concat(
                [part.patch_index for part in ordered], self.images.patches_per_crop
            ),
            layout=layout,
            image_key=ordered[0].key if len(ordered) == 1 else None,
        )

    def _given(
        self, messages: Sequence[Message], kind: str, beside: list[Any] | None
    ) -> list[Any]:
        """Returns the images or videos, from the messages or from beside them."""
        carried = media(messages, kind, fetch=self.fetch)
        if beside is None:
            return carried
        if carried and beside:
            raise ValueError(
                f"{len(carried)} {kind}s are in the messages and {len(beside)} beside "
                "them: give them in one place."
            )
        return carried or beside

    def _pictures(self, images: Sequence[ImageInput]) -> list[CutImage]:
        settings = self.images
        if len(images) == 1:
            return [self.cut(read_image(images[0], fetch=self.fetch), settings)]
        parts = []
        for number, image in enumerate(images, 1):
            name = f"image {number} of {len(images)}"
            pixels = read_image(image, name=name, fetch=self.fetch)
            crops = square_crops([pixels], settings)
            parts.append(CutImage(crops, square_patch_index(settings)))
        return parts

    def _films(self, videos: Sequence[VideoInput]) -> list[CutImage]:
        parts = []
        for number, video in enumerate(video_list(videos) or [], 1):
            frames = self._frames(video, f"video {number}")
            crops = frame_crops(frames, self.images)
            index = video_patch_index(len(crops), self.images)
            parts.append(CutImage(crops, index))
        return parts

    def _frames(self, video: VideoInput, name: str) -> Iterator[np.ndarray]:
        """Yields the frames of a clip that are seen; of a list all of them."""
        if isinstance(video, Clip):
            how = {"frames": self.frames, "fetch": self.fetch}
            yield from read_clip(video, name=name, **how)
            return
        for i, frame in enumerate(video, 1):
            yield read_image(frame, name=f"frame {i} of {name}", fetch=self.fetch)
