"""The eight tasks of tiled pages: what a glance answers, and what takes a digit.

Tiles are named by their colours, which a page shows once each. Easy tasks are answered
by the page as a whole, at any resolution; hard ones by digits, and so by one tile or
two that the question names.

    easy   place    colour top left        which colour is at a corner
           where    where green            at which place a colour is
           shape    shape green            what is drawn under its digits
           tiles    tiles                  how many there are
    hard   read     digit left green       one digit of one tile
           largest  largest green          the larger digit of one tile
           mark     marked digit           the one with the bright bar
           pair     largest left green red the larger digit of two tiles
"""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from visor_jax.data.pages.book import Book, Question, Task
from visor_jax.data.pages.tiles.facts import place_of
from visor_jax.data.pages.tiles.words import (
    COLOURS,
    CORNERS,
    DIGITS,
    SHAPES,
    SIDES,
    WORDS,
)

_Facts = np.ndarray


@functools.cache
def book_of(grid: int) -> Book:
    """Returns the questions about pages of `grid` x `grid` tiles."""
    colours = range(grid * grid)
    pairs = itertools.combinations(colours, 2)
    sides = range(len(SIDES))
    tasks = {
        ("place", "easy"): [_place(corner, grid) for corner in CORNERS],
        ("where", "easy"): [_where(colour, grid) for colour in colours],
        ("shape", "easy"): [_shape(colour) for colour in colours],
        ("tiles", "easy"): [_count(grid)],
        ("read", "hard"): [_read(c, s) for c in colours for s in sides],
        ("largest", "hard"): [_largest(colour) for colour in colours],
        ("mark", "hard"): [_mark()],
        ("pair", "hard"): [_pair(a, b, s) for a, b in pairs for s in sides],
    }
    return Book(
        WORDS, tuple(Task(*name, tuple(asked)) for name, asked in tasks.items())
    )


def tile_of(facts: _Facts, colour: int) -> np.ndarray:
    """Returns (n,) the tile that has a colour on each page."""
    return (facts["colours"] == colour).argmax(axis=1)


def _asked(
    text: str,
    words: tuple[str, ...],
    indices: Callable[[_Facts], np.ndarray],
    tiles: Callable[[_Facts], np.ndarray] | None = None,
) -> Question:
    return Question(text, words, indices, WORDS, tiles)


def _digits(facts: _Facts, colour: int) -> np.ndarray:
    return facts["digits"][np.arange(len(facts)), tile_of(facts, colour)]


def _only(colour: int) -> Callable[[_Facts], np.ndarray]:
    return lambda facts: tile_of(facts, colour)[:, None]


def _place(corner: str, grid: int) -> Question:
    places = [place_of(tile, grid) for tile in range(grid * grid)]
    tile = places.index(corner)
    return _asked(f"colour {corner}", COLOURS, lambda facts: facts["colours"][:, tile])


def _where(colour: int, grid: int) -> Question:
    places = tuple(place_of(tile, grid) for tile in range(grid * grid))
    text = f"where {COLOURS[colour]}"
    return _asked(text, places, lambda facts: tile_of(facts, colour))


def _shape(colour: int) -> Question:
    def shape(facts: _Facts) -> np.ndarray:
        return facts["shapes"][np.arange(len(facts)), tile_of(facts, colour)]

    return _asked(f"shape {COLOURS[colour]}", SHAPES, shape)


def _count(grid: int) -> Question:
    return _asked("tiles", DIGITS, lambda facts: np.full(len(facts), grid * grid))


def _read(colour: int, side: int) -> Question:
    return _asked(
        f"digit {SIDES[side]} {COLOURS[colour]}",
        DIGITS,
        lambda facts: _digits(facts, colour)[:, side],
        _only(colour),
    )


def _largest(colour: int) -> Question:
    return _asked(
        f"largest {COLOURS[colour]}",
        DIGITS,
        lambda facts: _digits(facts, colour).max(axis=1),
        _only(colour),
    )


def _mark() -> Question:
    def digit(facts: _Facts) -> np.ndarray:
        tile, side = facts["mark"].astype(int).T
        return facts["digits"][np.arange(len(facts)), tile, side]

    return _asked("marked digit", DIGITS, digit, lambda facts: facts["mark"][:, :1])


def _pair(one: int, other: int, side: int) -> Question:
    def largest(facts: _Facts) -> np.ndarray:
        both = (_digits(facts, colour)[:, side] for colour in (one, other))
        return np.maximum(*both)

    def tiles(facts: _Facts) -> np.ndarray:
        return np.stack([tile_of(facts, one), tile_of(facts, other)], axis=1)

    text = f"largest {SIDES[side]} {COLOURS[one]} {COLOURS[other]}"
    return _asked(text, DIGITS, largest, tiles)
