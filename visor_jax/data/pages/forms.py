"""How drawn pages become what a network reads: crops, image tokens, questions.

digits   one crop a page, 144 tokens, raster order
tiles    a base view and a crop per tile; LLaVA-OneVision's tokens: those of the
         base view, then the stitched tiles row by row, a newline after each row
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import NEWLINE, PatchIndex, anyres_patch_index
from visor_jax.data.pages import packing, questions
from visor_jax.data.pages.book import Book
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.pool.recipes import DIGIT_PAGES, TILED_PAGES, Recipe
from visor_jax.data.pages.tiles.drawing import CELL, TILE
from visor_jax.data.pages.tiles.facts import GRIDS
from visor_jax.data.pages.tiles.questions import book_of
from visor_jax.data.pages.vocabulary import Vocabulary

DIGITS, TILES = "digits", "tiles"
PATCH = packing.PATCH


class Form(Protocol):
    """What is the same for all pages of one recipe.

    patch_index: the image tokens. images: how pictures become crops.
    """

    recipe: Recipe
    book: Book
    images: ImageSettings
    patch_index: PatchIndex

    def crops(
        self, pages: UInt8[np.ndarray, "n side side 3"]
    ) -> Float32[np.ndarray, "n C h w 3"]:
        """Returns the crops of pages, normalised."""

    def reading_labels(self, facts: np.ndarray) -> Int32[np.ndarray, "n V"]:
        """Returns the digit that an image token completes, else -1."""


_DIGIT_IMAGES = ImageSettings(
    tile_size=IMAGE_SIZE, patch_size=PATCH, pinpoints=((IMAGE_SIZE,) * 2,)
)


@dataclasses.dataclass(frozen=True)
class DigitForm:
    """Pages of one crop."""

    recipe: Recipe = DIGIT_PAGES
    book: Book = questions.BOOK
    images: ImageSettings = _DIGIT_IMAGES

    @functools.cached_property
    def patch_index(self) -> PatchIndex:
        """Raster order, no newline."""
        raster = np.arange(packing.NUM_IMAGE_TOKENS, dtype=np.int32)
        return PatchIndex(raster, None, 1)

    def crops(self, pages: np.ndarray) -> np.ndarray:
        """Returns (n, 1, 96, 96, 3)."""
        return packing.normalise(pages)

    def reading_labels(self, facts: np.ndarray) -> np.ndarray:
        """Returns (n, 144), see `packing.reading_labels`."""
        return packing.reading_labels(facts["digits"])


TILE_IMAGES = ImageSettings(
    tile_size=TILE,
    patch_size=PATCH,
    pinpoints=tuple((grid * TILE,) * 2 for grid in GRIDS),
)


@dataclasses.dataclass(frozen=True)
class TileForm:
    """Pages of `grid` x `grid` tiles: 1 + grid x grid crops."""

    grid: int
    images: ImageSettings = TILE_IMAGES

    @property
    def recipe(self) -> Recipe:
        return TILED_PAGES[self.grid]

    @property
    def book(self) -> Book:
        return book_of(self.grid)

    @functools.cached_property
    def patch_index(self) -> PatchIndex:
        """The base view's patches, then those of the stitched tiles with newlines."""
        return anyres_patch_index(self.recipe.side, self.recipe.side, self.images)

    def crops(self, pages: np.ndarray) -> np.ndarray:
        """Returns (n, 1 + tiles, 48, 48, 3), the base view first."""
        return np.stack([anyres_crops(page, self.images) for page in pages])

    def reading_labels(self, facts: np.ndarray) -> np.ndarray:
        """Returns (n, V): the bottom row of a digit's cell, as in `packing`.

        The base view shows no digits and newlines nothing: -1.
        """
        side, per_cell = self.images.patches_per_side, CELL // PATCH
        per_tile = np.full((len(facts), self.grid**2, side, side), packing.NO_LABEL)
        per_tile[:, :, per_cell - 1] = np.repeat(facts["digits"], per_cell, axis=-1)
        no_base = np.full((len(facts), side * side), packing.NO_LABEL)
        flat = np.concatenate([no_base, per_tile.reshape(len(facts), -1)], axis=1)
        index = self.patch_index.index
        labels = np.where(index == NEWLINE, packing.NO_LABEL, flat[:, index])
        return labels.astype(np.int32)


# Of the pages of a kind, smallest first.
FORMS: Mapping[str, tuple[Form, ...]] = {
    DIGITS: (DigitForm(),),
    TILES: tuple(TileForm(grid) for grid in GRIDS),
}
_BY_RECIPE = {form.recipe.name: form for forms in FORMS.values() for form in forms}


def forms_of(kind: str) -> tuple[Form, ...]:
    """Returns the forms of a kind. Raises ValueError with the kinds that exist."""
    if kind not in FORMS:
        raise ValueError(f"Unknown pages {kind!r}: choose one of {list(FORMS)}.")
    return FORMS[kind]


def vocabulary_of(kind: str) -> Vocabulary:
    """Returns the words that pages of a kind are asked with."""
    return forms_of(kind)[0].book.vocabulary


def form_of(pool: PagePool) -> Form:
    """Returns the form of a pool's pages."""
    return _BY_RECIPE[pool.recipe.name]
