"""How a raw sample becomes tokens: the settings, its lengths, the sample itself."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from visor_jax.data.conversations.raw_sample import Conversation, RawSample
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import anyres_patch_index, square_patch_index
from visor_jax.data.images.read_image import read_image
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.messages import IMAGE
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout, lay_out

# Raised whenever the same raw sample would give other tokens than before.
_VERSION = 1
# Characters of a conversation whose tokens are remembered.
_SHORT = 512


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How large one sample is.

    image_end: text and image tokens up to the last of an image. first_trained: text and
    image tokens before the first place with a loss. shared_tokens: text tokens before
    the only image. group: the same for samples that have their only image, and all
    before it, in common; 0 for samples without one or with several. special_text: 1 if
    a turn has in it what looks like a special token.
    """

    crops: int
    image_tokens: int
    text_tokens: int
    corners: int
    image_end: int
    first_trained: int
    shared_tokens: int
    group: int
    special_text: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingProcessor:
    """Makes samples for training.

    supervision: which tokens have a loss, one of `token_layout.SUPERVISIONS`.
    max_length: longest sample, image tokens included; what is longer is cut off at the
      end. (Whether it is used at all is the plan's decision.)
    """

    chat: ChatProcessor
    supervision: str
    max_length: int

    def __post_init__(self) -> None:
        self.chat.check_tells_speakers()
        # Long samples are measured and cut here, not refused.
        chat = dataclasses.replace(self.chat, max_length=None)
        object.__setattr__(self, "chat", chat)

    def digest(self, *, special_text: bool = True) -> str:
        """Returns what is equal for processors that give a sample equal lengths.

        special_text: whether there are samples that look like special tokens; only
          these are not what they were before such texts were words.
        """
        facts = {
            "version": _VERSION,
            "tokenizer": self.chat.tokenizer.backend_tokenizer.to_str(),
            "template": self.chat.template,
            "images": dataclasses.asdict(self.chat.images),
            "supervision": self.supervision,
        }
        if special_text:
            facts["special_tokens"] = self.chat.special_tokens
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def lengths(self, conversation: Conversation) -> Lengths:
        """Returns the lengths of a sample, from its text and the sizes of its images.

        Raises:
          ValueError: if this template and tokenizer cannot express it.
        """
        images = _image_lengths(conversation.image_sizes, self.chat.images)
        layout = self._layout(conversation, images)
        places = layout.image_positions
        trained = layout.text_positions[layout.loss_mask]
        shared = layout.shared_tokens if len(images) == 1 else 0
        return Lengths(
            crops=sum(crops for crops, _, _ in images),
            image_tokens=len(places),
            text_tokens=len(layout.tokens),
            corners=max((corners for _, _, corners in images), default=1),
            image_end=int(places.max() + 1) if len(places) else 0,
            first_trained=int(trained.min()),
            shared_tokens=shared,
            group=_group(conversation, layout.tokens[:shared]),
            special_text=int(conversation.has_special_text),
        )

    def layout(self, conversation: Conversation) -> Layout:
        """Returns the tokens of a sample alone. Raises ValueError as `lengths`."""
        images = _image_lengths(conversation.image_sizes, self.chat.images)
        return _cut(self._layout(conversation, images), self.max_length)

    def sample(self, raw: RawSample, *, mirrored: bool = False) -> Sample:
        """Returns the sample that the network is trained on.

        mirrored: whether its images are, left to right.

        Raises:
          ValueError: if an image cannot be read or is not of the size that was
            recorded, or as `lengths`.
        """
        images: list[Any] = list(raw.images)
        if mirrored:
            images = [
                read_image(image, name=f"image {i}")[:, ::-1]
                for i, image in enumerate(images, 1)
            ]
        layout = self.layout(raw.conversation)
        return self.chat.of_layout(layout, images)

    def _layout(
        self, conversation: Conversation, images: list[tuple[int, int, int]]
    ) -> Layout:
        """Returns the whole text; of images the tokens are all that counts."""
        text = sum(len(words) for _, words in conversation.turns)
        if text > _SHORT:
            return self._laid_out(conversation, images)
        # What a layout does not depend on.
        said = dataclasses.replace(conversation, id="", source="", image_digests=())
        return _known_layout(self, said, tuple(images))

    def _laid_out(
        self, conversation: Conversation, images: Sequence[tuple[int, int, int]]
    ) -> Layout:
        pieces = self.chat.pieces(
            messages_of(conversation), generation_prompt=False, images=len(images)
        )
        return lay_out(
            pieces,
            self.chat.tokenizer,
            images=[tokens for _, tokens, _ in images],
            supervision=self.supervision,
        )


@functools.lru_cache(maxsize=1024)
def _known_layout(
    processor: TrainingProcessor,
    conversation: Conversation,
    images: tuple[tuple[int, int, int], ...],
) -> Layout:
    """Returns a short text's layout: data sets of few questions ask them often."""
    layout = processor._laid_out(conversation, images)
    for field in dataclasses.fields(layout):
        value = getattr(layout, field.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return layout


def _cut(layout: Layout, max_length: int) -> Layout:
    """Returns the text up to `max_length`; nothing is trained on what is cut off."""
    kept = layout.text_positions < max_length
    if kept.all():
        return layout
    fields = ("tokens", "text_positions", "targets", "loss_mask")
    cut = {name: getattr(layout, name)[kept] for name in fields}
    # The last token's target is gone.
    cut["loss_mask"] = np.append(cut["loss_mask"][:-1], False)
    return dataclasses.replace(layout, **cut)


def _group(conversation: Conversation, before: Int32[np.ndarray, "n"]) -> int:
    """Returns a number for the only image and the tokens before it, 0 for no image."""
    if len(conversation.image_digests) != 1:
        return 0
    content = conversation.image_digests[0] + before.tobytes()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    # One bit less, so that it is positive.
    return int.from_bytes(digest) >> 1


def _image_lengths(
    sizes: tuple[tuple[int, int], ...], settings: ImageSettings
) -> list[tuple[int, int, int]]:
    """Returns (crops, tokens, patches per token) of each image."""
    if len(sizes) == 1:
        return [_anyres_lengths(*sizes[0], settings)]
    patch_index = square_patch_index(settings)
    return [(patch_index.crops, patch_index.count, patch_index.corners)] * len(sizes)


@functools.lru_cache(maxsize=2**16)
def _anyres_lengths(
    height: int, width: int, settings: ImageSettings
) -> tuple[int, int, int]:
    patch_index = anyres_patch_index(height, width, settings)
    return patch_index.crops, patch_index.count, patch_index.corners


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    """Returns the chat messages, their image places in the texts.

    A turn with exactly one "<image>" that does not begin with it gets it first:

        "What is in <image> here?"  ->  "<image>\\nWhat is in  here?"

    Several stay where they are. (A leading turn of the assistant is gone since
    conversion; the template puts the system turn first.) Source:
    `preprocess_multimodal` and `preprocess_qwen` of LLaVA-NeXT,
    `llava/train/train.py`.
    """
    messages = [
        {"role": role, "content": _image_first(text)}
        for role, text in conversation.turns
    ]
    for number in conversation.untrained:
        messages[number]["weight"] = 0
    return messages


def _image_first(text: str) -> str:
    if text.count(IMAGE) != 1 or text.startswith(IMAGE):
        return text
    rest = text.replace(IMAGE, "").strip()
    return f"{IMAGE}\n{rest}".strip()
