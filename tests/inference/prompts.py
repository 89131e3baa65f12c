"""Batches of prompts, padded as a test wants them."""

from collections.abc import Sequence

import numpy as np

from tests import tiny
from visor_jax.batch import Batch
from visor_jax.models.config import VLMConfig

LENGTHS = (5, 2, 7)
_TEXT = (
    "tokens",
    "text_positions",
    "text_segments",
    "text_mask",
    "targets",
    "loss_mask",
)


def prompts(
    config: VLMConfig, lengths: Sequence[int] = LENGTHS, *, padding: int = 2
) -> Batch:
    """Returns right-padded prompts of these lengths about images of mixed sizes.

    Every second row has text before its image.
    """
    samples = [
        tiny.Sample(before=row % 2, image=6 + 3 * row, questions=(length - row % 2,))
        for row, length in enumerate(lengths)
    ]
    return tiny.random_batch(config, samples, padding=padding)


def left_padded(batch: Batch) -> Batch:
    """Returns the same prompts with their padding moved to the front."""
    moved = {}
    for name in _TEXT:
        rows = zip(getattr(batch, name), batch.text_mask, strict=True)
        moved[name] = np.stack([np.roll(row, np.sum(~valid)) for row, valid in rows])
    return batch.replace(**moved)


def extended(batch: Batch, tokens: np.ndarray) -> Batch:
    """Returns the batch with (B, N) more valid tokens after each prompt."""
    count = tokens.shape[1]
    last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)[:, None]
    ahead = np.arange(1, count + 1, dtype=np.int32)
    new = {
        "tokens": tokens,
        "text_positions": np.take_along_axis(batch.text_positions, last, 1) + ahead,
        "text_segments": np.take_along_axis(batch.text_segments, last, 1) + 0 * ahead,
        "text_mask": np.ones(tokens.shape, bool),
        "targets": tokens,
        "loss_mask": np.zeros(tokens.shape, bool),
    }
    whole = {k: np.concatenate([getattr(batch, k), v], axis=1) for k, v in new.items()}
    return batch.replace(**whole)
