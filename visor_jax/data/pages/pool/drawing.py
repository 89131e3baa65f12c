"""Draws one page of the embedded benchmark: 96x96 RGB.

    +------------------------------------------------+   24-pixel cells:
    |  digit      digit      digit      digit        |   rows 1..3, columns 1..4
    |  digit      digit      digit      digit        |   of handwritten digits,
    |  digit      digit      digit      digit        |   one with a red underline
    |  printed number     |  bars A, B, C and D      |
    +------------------------------------------------+

Behind the ink: a tint, a band of a second colour, perhaps a ring and orange squares;
over all of it: one darker half and pixel noise. Needs NumPy and Pillow only, so that
drawing processes start fast.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visor_jax.data.pages.pool.facts import (
    BAR_LEVELS,
    GRID_COLUMNS,
    GRID_ROWS,
    NUM_BARS,
    PageFacts,
)
from visor_jax.data.pages.pool.handwriting import GLYPH_SIZE, Handwriting
from visor_jax.data.pages.words import BAR_LETTERS, COLOURS, DIGITS, HALVES

# Part of a pool's cache key: raise it whenever a page would come out differently.
RECIPE_VERSION = 2

IMAGE_SIZE = 96
CELL = 24
_STRIP_TOP = GRID_ROWS * CELL
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
_NUMBER_POINTS, _LETTER_POINTS = 13, 8
_NUMBER_BOX = (48, 24)
_BAR_PITCH, _BAR_WIDTH, _BAR_STEP = 12, 6, 3
# Baseline of the bars: 24 pixels of strip less 9 for the letters.
_BAR_FLOOR = _STRIP_TOP + 15

_TINTS = np.array(
    [
        (238, 238, 234),  # white
        (246, 238, 160),  # yellow
        (184, 230, 184),  # green
        (176, 208, 246),  # blue
        (250, 190, 206),  # pink
        (212, 190, 242),  # violet
    ],
    np.float32,
)
_RED = np.array((214, 24, 24), np.float32)
_ORANGE = np.array((246, 132, 16), np.float32)
_RING_INK = np.array((116, 116, 116), np.float32)
_DARKEST, _LIGHTEST_INK = 0, 70
_HALF_SHADE = np.float32(0.8)
_NOISE = np.float32(4.0)
_RING_RADII = range(22, 35)
_BAND_WIDTHS = (8, 13)

_HALF_SLICES = {
    "left": np.s_[:, : IMAGE_SIZE // 2],
    "right": np.s_[:, IMAGE_SIZE // 2 :],
    "top": np.s_[: IMAGE_SIZE // 2],
    "bottom": np.s_[IMAGE_SIZE // 2 :],
}


@dataclasses.dataclass(frozen=True)
class PrintedGlyphs:
    """Bitmaps of the printed characters, float32 coverage in 0..1.

    numerals: per font, the ten numerals as (height, width) bitmaps of one height.
    letters: the bars' letters.
    rings: one square bitmap per radius of `_RING_RADII`.
    """

    numerals: tuple[tuple[np.ndarray, ...], ...]
    letters: tuple[np.ndarray, ...]
    rings: tuple[np.ndarray, ...]


@functools.cache
def printed_glyphs() -> PrintedGlyphs:
    """Returns the bitmaps that all pages share; drawn once per process."""
    # Only for the fonts' folder, and only where pages are really drawn.
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    numerals = []
    for name in _FONTS:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), _NUMBER_POINTS)
        numerals.append(tuple(_character(c, font) for c in DIGITS))
    font = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), _LETTER_POINTS)
    letters = tuple(_character(c, font) for c in BAR_LETTERS)
    return PrintedGlyphs(tuple(numerals), letters, tuple(map(_ring, _RING_RADII)))


def _character(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    # One height per font keeps the numerals of a number on a common baseline.
    _, top, _, bottom = font.getbbox("".join(DIGITS + BAR_LETTERS))
    width = round(font.getlength(text))
    canvas = Image.new("L", (width, bottom - top), 0)
    ImageDraw.Draw(canvas).text((0, -top), text, fill=255, font=font)
    return np.asarray(canvas, np.float32) / 255.0


def _ring(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1, dtype=np.float32)
    distance = np.hypot(offsets[:, None], offsets[None, :])
    # 2.5 pixels wide with soft edges, within the bitmap on all four sides.
    return np.clip(1.75 - np.abs(distance - (radius - 1.25)), 0.0, 1.0)


def draw_page(
    handwriting: Handwriting, rng: np.random.Generator
) -> tuple[np.ndarray, PageFacts]:
    """Returns a page, (96, 96, 3) uint8, and its facts."""
    facts = draw_facts(rng)
    page = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    _paint_background(page, facts, rng)
    _paint_grid(page, facts, handwriting, rng)
    _paint_number(page, facts, rng)
    _paint_bars(page, facts, rng)
    page[_HALF_SLICES[facts.dark_half]] *= _HALF_SHADE
    page += _NOISE * rng.standard_normal(page.shape, np.float32)
    return np.clip(page, 0.0, 255.0, out=page).astype(np.uint8), facts


def draw_facts(rng: np.random.Generator) -> PageFacts:
    """Returns the facts of a page that is yet to be painted."""
    digits = rng.integers(0, 10, (GRID_ROWS, GRID_COLUMNS))
    row, column = rng.integers(0, (GRID_ROWS, GRID_COLUMNS - 1))
    colour, band_step, half, ring, any_square, squares = rng.integers(
        0, (len(COLOURS), len(COLOURS) - 1, len(HALVES), 2, 2, 3)
    )
    return PageFacts(
        digits=tuple(map(tuple, digits.tolist())),
        mark=(int(row), int(column)),
        colour=COLOURS[colour],
        band=COLOURS[(colour + 1 + band_step) % len(COLOURS)],
        dark_half=HALVES[half],
        ring=bool(ring),
        # None on every second page, so that "any orange square" is an even question.
        squares=int(any_square * (1 + squares)),
        bars=tuple(rng.integers(1, BAR_LEVELS + 1, NUM_BARS).tolist()),
        number=int(rng.integers(100, 1000)),
    )


def _paint_background(
    page: np.ndarray, facts: PageFacts, rng: np.random.Generator
) -> None:
    page[:] = _TINTS[COLOURS.index(facts.colour)]
    vertical, width = rng.integers((0, _BAND_WIDTHS[0]), (2, _BAND_WIDTHS[1]))
    start = rng.integers(0, IMAGE_SIZE - width + 1)
    lying = page.swapaxes(0, 1) if vertical else page
    lying[start : start + width] = _TINTS[COLOURS.index(facts.band)]
    for _ in range(facts.squares):
        _paint_square(page, rng)
    if facts.ring:
        rings = printed_glyphs().rings
        ring = rings[rng.integers(len(rings))]
        y, x = rng.integers(0, IMAGE_SIZE - len(ring) + 1, 2)
        _stamp(page, ring, y, x, _RING_INK)


def _paint_square(page: np.ndarray, rng: np.random.Generator) -> None:
    # Astride a border between two cells: digits stay 2 pixels inside their cells, so
    # that none of them hides a square.
    upright, size, shift = rng.integers((0, 6, -1), (2, 9, 2)).tolist()
    borders, length = ((GRID_ROWS, IMAGE_SIZE), (GRID_COLUMNS, _STRIP_TOP))[upright]
    across = rng.integers(1, borders) * CELL - size // 2 + shift
    along = rng.integers(0, length - size + 1)
    y, x = (along, across) if upright else (across, along)
    page[y : y + size, x : x + size] = _ORANGE


def _paint_grid(
    page: np.ndarray,
    facts: PageFacts,
    handwriting: Handwriting,
    rng: np.random.Generator,
) -> None:
    cells = GRID_ROWS * GRID_COLUMNS
    jitter = rng.integers(2, 7, (cells, 2)).tolist()
    inks = _random_inks(rng, cells)
    choice = rng.random(cells).tolist()
    places = itertools.product(range(GRID_ROWS), range(GRID_COLUMNS))
    for i, (row, column) in enumerate(places):
        scans = handwriting.glyphs[facts.digits[row][column]]
        y, x = row * CELL + jitter[i][0], column * CELL + jitter[i][1]
        _stamp(page, scans[int(choice[i] * len(scans))], y, x, inks[i])
        if facts.mark == (row, column):
            page[y + GLYPH_SIZE : y + GLYPH_SIZE + 2, x : x + GLYPH_SIZE] = _RED


def _paint_number(page: np.ndarray, facts: PageFacts, rng: np.random.Generator) -> None:
    font = printed_glyphs().numerals[rng.integers(len(_FONTS))]
    glyphs = [font[int(c)] for c in str(facts.number)]
    width, height = sum(g.shape[1] for g in glyphs), glyphs[0].shape[0]
    x, y = rng.integers(1, (_NUMBER_BOX[0] - width, _NUMBER_BOX[1] - height)).tolist()
    ink = _random_inks(rng, 1)[0]
    for glyph in glyphs:
        _stamp(page, glyph, _STRIP_TOP + y, x, ink)
        x += glyph.shape[1]


def _paint_bars(page: np.ndarray, facts: PageFacts, rng: np.random.Generator) -> None:
    ink = _random_inks(rng, 1)[0]
    left = IMAGE_SIZE - NUM_BARS * _BAR_PITCH
    for i, level in enumerate(facts.bars):
        x = left + i * _BAR_PITCH + (_BAR_PITCH - _BAR_WIDTH) // 2
        page[_BAR_FLOOR - level * _BAR_STEP : _BAR_FLOOR, x : x + _BAR_WIDTH] = ink
        letter = printed_glyphs().letters[i]
        _stamp(page, letter, _BAR_FLOOR + 1, x, ink)


def _random_inks(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(_DARKEST, _LIGHTEST_INK, (count, 3)).astype(np.float32)


def _stamp(
    page: np.ndarray, coverage: np.ndarray, y: int, x: int, ink: np.ndarray
) -> None:
    height, width = coverage.shape
    region = page[y : y + height, x : x + width]
    region += coverage[:, :, None] * (ink - region)
