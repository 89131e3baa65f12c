"""Draws one tiled page: 2 x 2 or 3 x 3 tiles of 48 pixels, each a crop of the tower.

    +------------------------+   a handwritten digit on the left and one on the right,
    | digit       digit      |   whole patches each; one of the page with a bright bar
    | (mark)                 |   below; under them a dark shape, or none.
    |         shape          |   Every tile of a page has a colour of its own.
    +------------------------+

Digits are printed as a screen: where there is ink, pixels are brighter and darker than
the tile in turn, like the squares of a chess board. At full resolution that is as
legible as any ink. A view that is reduced with antialiasing to half or a third averages
over the squares and shows the plain tile: colours, shapes and places stay, digits are
gone. A faint screen all over the page goes with them: by it a patch of a tile is told
from its like in the base view, where layers without positions look. Plain small digits
would not go: handwriting of 8 x 8 pixels is still legible to a classifier at half of
that. Needs NumPy only, so that drawing processes start fast.
"""

import functools

import numpy as np

from visor_jax.data.pages.pool.handwriting import GLYPH_SIZE, Handwriting
from visor_jax.data.pages.tiles.facts import draw_record
from visor_jax.data.pages.tiles.words import COLOURS, SHAPES

# Part of a pool's cache key: raise it whenever a page would come out differently.
RECIPE_VERSION = 5

TILE = 48
CELL = 24
# Of the screen, to both sides of the tile's colour, which leaves room for it.
_SCREEN = np.float32(56)
# Of the same screen all over the page: a patch tells whether it is seen close up. Both
# together are cut off nowhere: what is cut off would not average out.
_GRAIN = np.float32(14)
# As in `COLOURS`: as far apart as the screens leave room for. Each is the furthest in
# its own direction from grey, twice as far as the next, so that a linear layer can look
# for it and a softmax need not be sharp to tell it from others.
_TINTS = (
    *((179, 77, 114), (179, 179, 114), (77, 179, 114), (77, 128, 176)),
    *((77, 77, 114), (128, 179, 176), (128, 77, 176), (179, 128, 176)),
    (128, 128, 77),
)
_INK, _MARK = np.float32(25), np.float32(250)
_NOISE = np.float32(4)
_MARK_TOP, _MARK_SIZE = 24, (4, 16)
_SHAPE_TOP, _SHAPE_SIZE = 31, 16


def draw_page(
    grid: int, handwriting: Handwriting, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a page, (48 grid, 48 grid, 3) uint8, and its facts, a record."""
    record = draw_record(grid, rng)
    side = grid * TILE
    page = np.empty((side, side, 3), np.float32)
    for tile in range(grid * grid):
        y, x = (TILE * place for place in divmod(tile, grid))
        _paint_tile(page[y : y + TILE, x : x + TILE], tile, record, handwriting, rng)
    page += _NOISE * rng.standard_normal(page.shape, np.float32)
    return np.clip(page, 0.0, 255.0, out=page).astype(np.uint8), record


@functools.cache
def tints() -> np.ndarray:
    """Returns the colours of tiles, (colours, RGB) float32, as in `COLOURS`."""
    assert len(_TINTS) == len(COLOURS)
    return np.asarray(_TINTS, np.float32)


def _paint_tile(
    region: np.ndarray,
    tile: int,
    record: np.ndarray,
    handwriting: Handwriting,
    rng: np.random.Generator,
) -> None:
    region[:] = tints()[record["colours"][tile]] + _GRAIN * screen()[:, :, None]
    for side, digit in enumerate(record["digits"][tile].tolist()):
        scans = handwriting.glyphs[digit]
        y, x = CELL - GLYPH_SIZE, side * CELL
        place = np.s_[y : y + GLYPH_SIZE, x : x + GLYPH_SIZE]
        coverage = scans[rng.integers(len(scans))] * screen()[place]
        region[place] += _SCREEN * coverage[:, :, None]
        if record["mark"].tolist() == [tile, side]:
            height, width = _MARK_SIZE
            region[_MARK_TOP : _MARK_TOP + height, x : x + width] = _MARK
    shape = shapes()[record["shapes"][tile]]
    x = int(rng.integers(2, TILE - _SHAPE_SIZE - 1))
    under = region[_SHAPE_TOP : _SHAPE_TOP + _SHAPE_SIZE, x : x + _SHAPE_SIZE]
    under[shape] = _INK


@functools.cache
def screen() -> np.ndarray:
    """Returns the screen of a tile, (48, 48) float32: 1 and -1 in turn."""
    y, x = np.indices((TILE, TILE))
    return np.where((y + x) % 2, np.float32(-1), np.float32(1))


@functools.cache
def shapes() -> np.ndarray:
    """Returns where each shape has ink, (shapes, 16, 16) bool, as in `SHAPES`."""
    y, x = np.indices((_SHAPE_SIZE, _SHAPE_SIZE)) - (_SHAPE_SIZE - 1) / 2
    radius = np.hypot(y, x)
    drawn = {
        "none": np.zeros(y.shape, bool),
        "ring": (radius < 8) & (radius > 4.5),
        "cross": (np.abs(y) < 2.5) | (np.abs(x) < 2.5),
        "bar": np.abs(y) < 4,
    }
    return np.stack([drawn[name] for name in SHAPES])
