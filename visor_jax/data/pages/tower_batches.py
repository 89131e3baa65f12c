"""Batches for the short pretraining of the vision tower: coarse things only.

The labels say nothing about which digit is where, so that reading remains for the
decoder to learn. Resumable in the same way as `visor_jax.data.pages.training_batches`.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import grain
import numpy as np

from visor_jax.data.pages.packing import PATCH, PATCHES_PER_SIDE, normalise
from visor_jax.data.pages.pool.pool import PagePool

Array = Any

# Ink is darker than any tint in the dark half; marks and squares are more saturated
# than any tint or ink, noise included.
_INK_LUMINANCE = np.float32(100)
_SATURATED_CHROMA = 140
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


@flax.struct.dataclass
class TowerBatch:
    """Pages with coarse labels; every field has a leading batch axis.

    pixels: (B, 1, 96, 96, 3) float32, as in `Batch`.
    colour: (B,) int32 in `words.COLOURS`.
    dark_half: (B,) int32 in `words.HALVES`.
    ring, squares: (B,) bool, whether there is any.
    luminance: (B, P) float32, mean of each patch in 0..1.
    ink, saturated: (B, P) bool, whether the patch holds any dark or vivid pixel.
    """

    pixels: Array
    colour: Array
    dark_half: Array
    ring: Array
    squares: Array
    luminance: Array
    ink: Array
    saturated: Array


def tower_batch(pages: np.ndarray, facts: np.ndarray) -> TowerBatch:
    """Returns the batch of (B, 96, 96, 3) uint8 pages and their (B,) RECORD facts."""
    luminance, ink, saturated = patch_labels(pages)
    return TowerBatch(
        pixels=normalise(pages),
        colour=facts["colour"].astype(np.int32),
        dark_half=facts["dark_half"].astype(np.int32),
        ring=facts["ring"].astype(bool),
        squares=facts["squares"] > 0,
        luminance=luminance,
        ink=ink,
        saturated=saturated,
    )


def patch_labels(pages: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns luminance (B, P) float32 in 0..1, and (B, P) bool ink and saturated."""
    red, green, blue = np.ascontiguousarray(np.moveaxis(pages, -1, 0))
    luma = _by_patch(_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)
    brightest = np.maximum(np.maximum(red, green), blue)
    chroma = _by_patch(brightest - np.minimum(np.minimum(red, green), blue))
    return (
        luma.mean(axis=-1) / np.float32(255),
        luma.min(axis=-1) < _INK_LUMINANCE,
        chroma.max(axis=-1) > _SATURATED_CHROMA,
    )


def _by_patch(values: np.ndarray) -> np.ndarray:
    side = PATCHES_PER_SIDE
    split = values.reshape(-1, side, PATCH, side, PATCH)
    return split.swapaxes(2, 3).reshape(len(values), side * side, PATCH * PATCH)


class _TowerRows:
    """Random access to the pages of a run: element i is a page's index."""

    def __init__(self, pool_size: int, seed: int, length: int) -> None:
        self._pool_size, self._seed, self._length = pool_size, seed, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        rng = np.random.default_rng([self._seed, index])
        return int(rng.integers(self._pool_size))


def tower_batches(
    pool: PagePool,
    *,
    batch_size: int,
    steps: int,
    seed: int = 0,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Returns an iterator over `steps` `TowerBatch`es (NumPy), resumable by state.

    Raises:
      ValueError: for a batch size or number of steps below 1.
    """
    if batch_size < 1 or steps < 1:
        raise ValueError(f"{batch_size=} and {steps=} must be at least 1.")

    def assemble(rows: Sequence[int]) -> TowerBatch:
        index = np.array(rows)
        return tower_batch(pool.pages[index], pool.facts[index])

    rows = grain.MapDataset.source(_TowerRows(len(pool), seed, batch_size * steps))
    batches = rows.batch(batch_size, batch_fn=assemble)
    return iter(
        batches.to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        )
    )
