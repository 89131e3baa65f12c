"""Keeps a pool on disk: two NumPy files, complete and checked, or none.

The pages are mapped into memory, so that two runs on one machine share them.
"""

import zlib
from pathlib import Path

import numpy as np

from visor_jax.data.pages.pool.recipes import Recipe
from visor_jax.runtime import atomic_write

_PAGES, _FACTS, _CHECKSUMS = ".pages.npy", ".facts.npy", ".crc32.npy"


def pool_name(recipe: Recipe, split: str, size: int, seed: int) -> str:
    """Returns the name of a pool's files, without their endings."""
    return f"{recipe.name}-v{recipe.version}-{split}-n{size}-seed{seed}"


def write(path: Path, pages: np.ndarray, facts: np.ndarray) -> None:
    """Writes a pool next to `path`; a reader never sees half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Last the checksums: they are what makes the other two files count.
    _replace(path, _PAGES, pages)
    _replace(path, _FACTS, facts)
    _replace(path, _CHECKSUMS, _checksums(pages, facts))


def read(path: Path, recipe: Recipe, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (pages, facts), or None if there are none.

    Raises:
      Exception: of whatever kind, if they are damaged.
    """
    files = [_with_ending(path, ending) for ending in (_PAGES, _FACTS, _CHECKSUMS)]
    if not any(file.exists() for file in files):
        return None
    pages = np.load(files[0], mmap_mode="r")
    facts = np.load(files[1])
    recorded = np.load(files[2])
    _check(pages, facts, recorded, recipe, size)
    return pages, facts


def _check(
    pages: np.ndarray,
    facts: np.ndarray,
    recorded: np.ndarray,
    recipe: Recipe,
    size: int,
) -> None:
    shape = (size, recipe.side, recipe.side, 3)
    if pages.shape != shape or pages.dtype != np.uint8:
        raise ValueError(f"pages are {pages.shape} {pages.dtype}, not {shape} uint8.")
    if facts.shape != (size,) or facts.dtype != recipe.record:
        raise ValueError(f"facts are {facts.shape} {facts.dtype}.")
    if not np.array_equal(recorded, _checksums(pages, facts)):
        raise ValueError("the checksums differ.")


def _checksums(pages: np.ndarray, facts: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(pages), zlib.crc32(facts.tobytes())], np.uint32)


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _replace(path: Path, ending: str, array: np.ndarray) -> None:
    file = _with_ending(path, ending)
    atomic_write.write_file(file, lambda stream: np.save(stream, array))
