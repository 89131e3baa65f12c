"""Draws a range of pages and writes their bytes to standard output.

Started by `pool` as `python -m visor_jax.data.pages.pool.worker`. An own interpreter,
neither forked nor spawned by `multiprocessing`: it inherits no threads of a running jax
and never imports the caller's main module.
"""

import os
import sys

import numpy as np

from visor_jax.data.pages.pool.handwriting import load_handwriting, split_id
from visor_jax.data.pages.pool.recipes import DIGIT_PAGES, RECIPES, Recipe

# Pages per message: half a second of drawing at most, so that progress is smooth.
CHUNK = 256


def draw_pages(
    split: str, seed: int, indices: range, recipe: Recipe = DIGIT_PAGES
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pages, (n, side, side, 3) uint8, and (n,) records of these indices.

    Page i depends on (seed, split, i) alone, not on who draws it or what else is drawn.
    """
    handwriting = load_handwriting(split)
    pages = np.empty((len(indices), recipe.side, recipe.side, 3), np.uint8)
    facts = np.empty(len(indices), recipe.record)
    for n, i in enumerate(indices):
        rng = np.random.default_rng([seed, split_id(split), i])
        pages[n], facts[n] = recipe.draw(handwriting, rng)
    return pages, facts


def chunks_of(start: int, stop: int) -> list[range]:
    """Returns the ranges of at most CHUNK pages that make up start..stop."""
    return [range(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]


def main(recipe: str, split: str, seed: str, start: str, stop: str) -> None:
    # The pipe must carry pages only: whatever else prints goes to standard error.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for chunk in chunks_of(int(start), int(stop)):
        pages, facts = draw_pages(split, int(seed), chunk, RECIPES[recipe])
        pipe.write(pages)
        pipe.write(facts.tobytes())
        pipe.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
