"""How pages of one size are drawn, by name: what a pool holds."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from visor_jax.data.pages.pool import drawing, facts
from visor_jax.data.pages.pool.handwriting import Handwriting
from visor_jax.data.pages.tiles import drawing as tile_drawing
from visor_jax.data.pages.tiles.facts import GRIDS, record_of

Draw = Callable[[Handwriting, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Pages that are drawn alike.

    name, version: of the files that keep them. side: in pixels. record: dtype of what
    is true of a page. draw: returns a page, (side, side, 3) uint8, and its record.
    """

    name: str
    version: int
    side: int
    record: np.dtype
    draw: Draw


def _draw_digits(
    handwriting: Handwriting, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    page, found = drawing.draw_page(handwriting, rng)
    return page, found.to_record()


DIGIT_PAGES = Recipe(
    "pages",
    drawing.RECIPE_VERSION,
    drawing.IMAGE_SIZE,
    facts.RECORD,
    _draw_digits,
)
TILED_PAGES = {
    grid: Recipe(
        f"tiles-{grid}x{grid}",
        tile_drawing.RECIPE_VERSION,
        grid * tile_drawing.TILE,
        record_of(grid),
        functools.partial(tile_drawing.draw_page, grid),
    )
    for grid in GRIDS
}
RECIPES = {recipe.name: recipe for recipe in (DIGIT_PAGES, *TILED_PAGES.values())}
