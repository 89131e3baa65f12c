"""Real handwritten digits, split three ways by scan.

The scans are scikit-learn's `load_digits` (the test part of "Optical Recognition of
Handwritten Digits", UCI): 1797 digits of 8x8 pixels, here upsampled to 16x16. Neither
the network ("train") nor the budget policy ("policy") ever sees a scan of "test".
"""

import dataclasses
import functools

import numpy as np

SPLITS = ("train", "policy", "test")
SHARES = (0.70, 0.15, 0.15)
GLYPH_SIZE = 16
_SCAN_SIZE = 8
# Any constant will do, but it decides who is who: changing it changes every pool.
_SPLIT_SEED = 20240229


@dataclasses.dataclass(frozen=True)
class Handwriting:
    """The scans of one split.

    glyphs: for each digit 0..9, (n, 16, 16) float32 ink coverage in 0..1.
    scan_ids: for each digit, (n,) index of the scan in `load_digits`.
    """

    glyphs: tuple[np.ndarray, ...]
    scan_ids: tuple[np.ndarray, ...]


def split_id(split: str) -> int:
    """Returns the index of a split. Raises ValueError with the names that exist."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {list(SPLITS)}.")
    return SPLITS.index(split)


@functools.cache
def load_handwriting(split: str) -> Handwriting:
    """Returns the scans of one split, the same on every machine."""
    # Importing scikit-learn takes a second that a cached pool need not pay.
    from sklearn.datasets import load_digits

    wanted = split_id(split)
    scans = load_digits()
    glyphs = upsample(scans.images.astype(np.float32) / 16.0)
    ids = [
        _split_scans(np.flatnonzero(scans.target == digit), digit)[wanted]
        for digit in range(10)
    ]
    return Handwriting(tuple(glyphs[i] for i in ids), tuple(ids))


def _split_scans(ids: np.ndarray, digit: int) -> list[np.ndarray]:
    order = np.random.default_rng([_SPLIT_SEED, digit]).permutation(len(ids))
    ends = np.round(np.cumsum(SHARES)[:-1] * len(ids)).astype(int)
    return [np.sort(part) for part in np.split(ids[order], ends)]


def upsample(scans: np.ndarray) -> np.ndarray:
    """Returns (n, 16, 16) float32, the (n, 8, 8) scans enlarged bilinearly."""
    # Pixel centres: the outermost half pixel has no second neighbour and is repeated.
    source = (np.arange(GLYPH_SIZE) + 0.5) * _SCAN_SIZE / GLYPH_SIZE - 0.5
    source = np.clip(source, 0, _SCAN_SIZE - 1)
    distance = np.abs(source[:, None] - np.arange(_SCAN_SIZE))
    weights = np.clip(1.0 - distance, 0.0, None).astype(np.float32)
    return np.einsum("yi,nij,xj->nyx", weights, scans, weights, optimize=True)
