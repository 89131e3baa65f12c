"""A LLaVA-OneVision processor in small: crops of few pixels, a tokenizer of bytes."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from visor_jax.data.images.image_settings import ImageSettings

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PAD, START, END, IMAGE, VIDEO = range(256, 261)

# Height and width: resized patches, tall, wide, exact grid, upscaled, slivers.
SIZES = (
    *((300, 330), (500, 60), (60, 500), (112, 168), (20, 30), (56, 56)),
    *((1, 400), (400, 1), (57, 55), (336, 336), (336, 335), (1, 1)),
)


def image_settings(tile: int = 56, patch: int = 14, side: int = 6) -> ImageSettings:
    """Returns settings with every grid of up to side x side tiles."""
    sides = [tile * i for i in range(1, side + 1)]
    return ImageSettings(
        tile_size=tile,
        patch_size=patch,
        pinpoints=tuple((height, width) for height in sides for width in sides),
    )


def hf_image_processor(settings: ImageSettings) -> LlavaOnevisionImageProcessorPil:
    """Returns the image processor of transformers with the same settings."""
    return LlavaOnevisionImageProcessorPil(
        size={"height": settings.tile_size, "width": settings.tile_size},
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        image_grid_pinpoints=[list(point) for point in settings.pinpoints],
    )


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns smooth colours and noise, so that resizing has something to change."""
    rng = np.random.default_rng([seed, height, width])
    slope = np.linspace(0, 200, width) + np.linspace(0, 55, height)[:, None]
    noise = rng.integers(-40, 40, (height, width, 3))
    return np.clip(slope[..., None] + noise, 0, 255).astype(np.uint8)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a token per byte, and those of the chat format."""
    return _byte_tokenizer(SPECIAL)


def tokenizer_without_places() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of a language model alone: no images, no videos."""
    return _byte_tokenizer(SPECIAL[:3])


def _byte_tokenizer(special: Sequence[str]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the same with two more tokens: "\\n\\n" and "ab"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    vocabulary |= {"ĊĊ": 256, "ab": 257}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("a", "b")]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )


def question(text: str = "Why?", images: int = 1, videos: int = 0) -> list[dict]:
    """Returns the messages of one question."""
    parts: Sequence[dict] = [{"type": "image"}] * images + [{"type": "video"}] * videos
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
