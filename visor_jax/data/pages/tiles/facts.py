"""What is true of a tiled page: one record per page, tiles row by row."""

import numpy as np

from visor_jax.data.pages.tiles.words import COLOURS, DIGITS, PLACES, SHAPES, SIDES

GRIDS = (2, 3)


def record_of(grid: int) -> np.dtype:
    """Returns the record of a page of `grid` x `grid` tiles.

    colours: of each tile, index in `COLOURS`; no two tiles have the same.
    digits: of each tile, the left and the right one.
    shapes: of each tile, index in `SHAPES`.
    mark: (tile, side) of the marked digit.
    """
    tiles = grid * grid
    return np.dtype(
        [
            ("colours", np.uint8, (tiles,)),
            ("digits", np.uint8, (tiles, len(SIDES))),
            ("shapes", np.uint8, (tiles,)),
            ("mark", np.uint8, (2,)),
        ]
    )


def draw_record(grid: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the facts of a page that is yet to be painted."""
    tiles = grid * grid
    record = np.zeros((), record_of(grid))
    record["colours"] = rng.permutation(tiles)
    record["digits"] = rng.integers(0, len(DIGITS), (tiles, len(SIDES)))
    record["shapes"] = rng.integers(0, len(SHAPES), tiles)
    record["mark"] = rng.integers(0, (tiles, len(SIDES)))
    return record


def grid_of(facts: np.ndarray) -> int:
    """Returns how many tiles a side the pages of these records have."""
    return round(facts.dtype["colours"].shape[0] ** 0.5)


def place_of(tile: int, grid: int) -> str:
    """Returns the word for where a tile lies."""
    at = np.linspace(0, len(PLACES) - 1, grid).astype(int)
    row, column = divmod(tile, grid)
    return PLACES[at[row]][at[column]]


def describe(record: np.ndarray) -> list[str]:
    """Returns the facts of one page as short lines of text, one a tile."""
    grid = grid_of(record)
    lines = []
    for tile in range(grid * grid):
        left, right = record["digits"][tile]
        lines.append(
            f"{place_of(tile, grid)}: {COLOURS[record['colours'][tile]]}, "
            f"{SHAPES[record['shapes'][tile]]}, {left} {right}"
        )
    tile, side = record["mark"].tolist()
    return [*lines, f"marked: {SIDES[side]} of {place_of(tile, grid)}"]
