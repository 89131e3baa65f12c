"""A processor of tiny prompts: numbers are tokens, images are random crops by seed.

Request("7 3 <image> 5 5 2", [Picture(seed=1, tokens=9)])
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.cut_image import Cutter, cut_image
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import NEWLINE, PatchIndex
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout
from visor_jax.models.config import VLMConfig

MOST_IMAGE_TOKENS, MOST_TEXT = (12, 19), 20
LARGE = Bucket(crops=2, image_tokens=19, text_tokens=MOST_TEXT)
SMALL = Bucket(crops=1, image_tokens=12, text_tokens=6)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of one or two crops; a token is a patch of it or the newline."""

    seed: int
    tokens: int
    crops: int = 1


class _Tokenizer:
    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


@dataclasses.dataclass(frozen=True)
class _Prompts:
    config: VLMConfig
    context: int
    tokenizer: _Tokenizer = dataclasses.field(default_factory=_Tokenizer)
    # Pictures are crops already.
    cut: Cutter = cut_image

    def prompt(self, messages, *, images=None, videos=None, room=0) -> Sample:
        (message,) = messages
        content = message["content"]
        if not isinstance(content, str):
            content = "<image> " * len(images or ()) + content[-1]["text"]
        before, place, after = content.partition("<image>")
        if not place:
            before, after = "", before
        crops, index = self._image(images)
        before, after = (np.array(t.split(), np.int32) for t in (before, after))
        text = len(before) + len(after)
        if text + index.count + room > self.context:
            raise ValueError(f"{text} tokens are too many: shorten the text.")
        after_image = len(before) + index.count
        positions = [np.arange(len(before)), after_image + np.arange(len(after))]
        layout = Layout(
            tokens=np.concatenate([before, after]),
            text_positions=np.concatenate(positions).astype(np.int32),
            image_positions=(len(before) + np.arange(index.count)).astype(np.int32),
            targets=np.zeros(text, np.int32),
            loss_mask=np.zeros(text, bool),
            media=(("image", 0),) if index.count else (),
        )
        return Sample(crops=crops, patch_index=index, layout=layout)

    def _image(self, images) -> tuple[np.ndarray, PatchIndex]:
        side = self.config.vision.image_size
        if not images:
            empty = np.zeros((0,), np.int32)
            return np.zeros((0, side, side, 3), np.float32), PatchIndex(empty, None, 0)
        (picture,) = images
        if picture.seed < 0:
            raise ValueError("Cannot read the image: it is damaged.")
        rng = np.random.default_rng(picture.seed)
        crops = rng.normal(size=(picture.crops, side, side, 3)).astype(np.float32)
        patches = picture.crops * self.config.vision.num_patches
        index = rng.integers(0, patches, picture.tokens).astype(np.int32)
        if self.config.image_newline:
            index[-1] = NEWLINE
        return crops, PatchIndex(index, None, picture.crops)


def processor(
    config: VLMConfig,
    *,
    eos_id: int,
    context: int = 60,
    buckets: Sequence[Bucket] = (LARGE,),
) -> Processor:
    """Returns the processor of a network of these sizes."""
    settings = ImageSettings(
        tile_size=config.vision.image_size,
        patch_size=config.vision.patch_size,
        pinpoints=((config.vision.image_size,) * 2,),
    )
    return Processor(
        prompts=_Prompts(config, context),
        buckets=Buckets(buckets, settings, pad_id=0),
        eos_ids=(eos_id,),
        pad_id=0,
        new_tokens=5,
    )


def requests(count: int, *, seed: int = 0, vocabulary: int = 40) -> list[Request]:
    """Returns prompts of all kinds: images of two sizes or none, text before some."""
    rng = np.random.default_rng(seed)

    def words(count: int) -> str:
        return " ".join(map(str, rng.integers(1, vocabulary, count)))

    found = []
    for number in range(count):
        text = words(rng.integers(1, 5 if number % 3 else 12))
        if number % 5 == 4:
            found.append(Request(text))
            continue
        crops = 1 + number % 2
        tokens = int(rng.integers(3, MOST_IMAGE_TOKENS[crops - 1] + 1))
        before = words(2) if number % 4 == 3 else ""
        picture = Picture(seed=number, tokens=tokens, crops=crops)
        found.append(Request(f"{before} <image> {text}", [picture]))
    return found
