"""Prompts about pages as a batch, laid out by hand: what requests must become."""

from collections.abc import Sequence

import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.pages.packing import NUM_IMAGE_TOKENS, normalise
from visor_jax.data.pages.words import PAD, TOKEN_ID, ids_of


def prompt_batch(
    pages: np.ndarray, questions: Sequence[str], *, text_length: int | None = None
) -> Batch:
    """Returns one question per page, each ending in ":", padded on the right.

    Args:
      pages: (B, 96, 96, 3) uint8.
      text_length: T; the longest prompt if None.
    """
    prompts = [ids_of(question.removesuffix(":") + ":") for question in questions]
    lengths = np.array([len(prompt) for prompt in prompts])
    text_length = lengths.max() if text_length is None else text_length
    raster = np.tile(np.arange(NUM_IMAGE_TOKENS, dtype=np.int32), (len(pages), 1))
    columns = np.arange(text_length, dtype=np.int32)
    mask = columns < lengths[:, None]
    tokens = np.full(mask.shape, TOKEN_ID[PAD], np.int32)
    tokens[mask] = np.concatenate(prompts)
    return Batch(
        pixels=normalise(pages),
        image_token_index=raster,
        image_positions=raster.copy(),
        image_mask=np.ones(raster.shape, bool),
        tokens=tokens,
        text_positions=np.where(mask, NUM_IMAGE_TOKENS + columns, 0).astype(np.int32),
        text_segments=mask.astype(np.int32),
        text_mask=mask,
        targets=np.full_like(tokens, TOKEN_ID[PAD]),
        loss_mask=np.zeros(mask.shape, bool),
    )
