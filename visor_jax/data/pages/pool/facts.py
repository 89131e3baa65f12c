"""What is true of a page: one frozen value per page, one structured array per pool."""

import dataclasses

import numpy as np

from visor_jax.data.pages.words import COLOURS, HALVES

GRID_ROWS, GRID_COLUMNS = 3, 4
NUM_BARS = 4
BAR_LEVELS = 5

RECORD = np.dtype(
    [
        ("digits", np.uint8, (GRID_ROWS, GRID_COLUMNS)),
        ("mark", np.uint8, (2,)),
        ("colour", np.uint8),
        ("band", np.uint8),
        ("dark_half", np.uint8),
        ("ring", np.bool_),
        ("squares", np.uint8),
        ("bars", np.uint8, (NUM_BARS,)),
        ("number", np.uint16),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageFacts:
    """Everything a question can be about, and the distractors.

    digits: 3 rows of 4 handwritten digits.
    mark: (row, column) of the underlined digit from 0; never in the last column, so
      that every page has a digit right of the mark.
    colour, band: words of `COLOURS`; the page's tint and the stripe across it.
    dark_half: word of `HALVES`.
    squares: number of orange squares, 0..3.
    bars: values 1..5 of the bars A to D.
    number: the printed three-digit number.
    """

    digits: tuple[tuple[int, ...], ...]
    mark: tuple[int, int]
    colour: str
    band: str
    dark_half: str
    ring: bool
    squares: int
    bars: tuple[int, ...]
    number: int

    def to_record(self) -> np.ndarray:
        """Returns the facts as a RECORD scalar array; words become their index."""
        values = dataclasses.asdict(self)
        values["colour"] = COLOURS.index(self.colour)
        values["band"] = COLOURS.index(self.band)
        values["dark_half"] = HALVES.index(self.dark_half)
        return np.array(tuple(values[name] for name in RECORD.names), RECORD)

    @classmethod
    def from_record(cls, record: np.ndarray) -> "PageFacts":
        """Returns the facts of one element of a RECORD array."""
        return cls(
            digits=tuple(tuple(row) for row in record["digits"].tolist()),
            mark=tuple(record["mark"].tolist()),
            colour=COLOURS[record["colour"]],
            band=COLOURS[record["band"]],
            dark_half=HALVES[record["dark_half"]],
            ring=bool(record["ring"]),
            squares=int(record["squares"]),
            bars=tuple(record["bars"].tolist()),
            number=int(record["number"]),
        )
