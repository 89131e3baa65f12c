"""Packs questions about a page into one row of fixed length.

The image comes first (positions 0..143, seen by all); each question then starts at
position 144 in a segment of its own. With 3 image tokens instead of 144:

    words      ring  :     yes    bar  B  :  4      .
    positions  3     4     5      3    4  5  6      0
    segments   1     1     1      2    2  2  2      0
    targets    :     yes   <eos>  B    :  4  <eos>  <pad>
    loss_mask  0     1     1      0    0  1  1      0
    text_mask  1     1     1      1    1  1  1      0
"""

import dataclasses

import numpy as np

from visor_jax.data.pages.book import Book
from visor_jax.data.pages.pool.drawing import CELL, IMAGE_SIZE
from visor_jax.data.pages.pool.facts import GRID_COLUMNS, GRID_ROWS
from visor_jax.data.pages.questions import BOOK

PATCH = 8
PATCHES_PER_SIDE = IMAGE_SIZE // PATCH
NUM_IMAGE_TOKENS = PATCHES_PER_SIDE**2
NO_LABEL = -1

QUESTION_LENGTHS = BOOK.lengths
answer_table = BOOK.answers


@dataclasses.dataclass(frozen=True)
class TextRow:
    """The text fields of one row of a `Batch`, each (T,), and what they came from.

    questions: ids of the questions that found room, in order.
    answer_places: per question, where its answer is predicted (the place of ":").
    crops: of the page, those that the row looks at, ascending; None for all.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    mask: np.ndarray
    targets: np.ndarray
    loss_mask: np.ndarray
    questions: np.ndarray
    answer_places: np.ndarray
    crops: tuple[int, ...] | None = None


def pack_row(
    questions: np.ndarray,
    answers: np.ndarray,
    text_length: int,
    *,
    book: Book = BOOK,
    image_tokens: int = NUM_IMAGE_TOKENS,
) -> TextRow:
    """Returns the row with as many of the questions, in order, as fit.

    Args:
      questions: (n,) indices in the book's questions.
      answers: (n,) token ids of the answers.
      text_length: T.
      image_tokens: that stand before each question.

    Raises:
      ValueError: if not even the first question fits.
    """
    lengths = book.lengths[questions]
    ends = np.cumsum(lengths)
    count = int(np.searchsorted(ends, text_length, side="right"))
    if count == 0:
        raise ValueError(f"{text_length=} holds none of {len(questions)} questions.")
    questions, lengths, ends = questions[:count], lengths[:count], ends[:count]
    used, last = ends[-1], ends - 1

    columns = np.arange(book.longest, dtype=np.int32)
    real = lengths[:, None] > columns
    row = {name: np.zeros(text_length, np.int32) for name in _INTEGER_FIELDS}
    row["tokens"][:] = row["targets"][:] = book.pad_id
    # Reading a boolean choice row by row lays the questions end to end.
    row["tokens"][:used] = book.tokens[questions][real]
    row["tokens"][last] = answers[:count]
    row["positions"][:used] = np.broadcast_to(columns, real.shape)[real]
    row["positions"][:used] += image_tokens
    row["segments"][:used] = np.repeat(np.arange(1, count + 1), lengths)
    row["targets"][: used - 1] = row["tokens"][1:used]
    row["targets"][last] = book.eos_id
    mask = np.arange(text_length) < used
    loss_mask = np.zeros(text_length, bool)
    loss_mask[last] = loss_mask[last - 1] = True
    return TextRow(
        **row,
        mask=mask,
        loss_mask=loss_mask,
        questions=questions,
        answer_places=last - 1,
    )


_INTEGER_FIELDS = ("tokens", "positions", "segments", "targets")


def normalise(pages: np.ndarray) -> np.ndarray:
    """Returns (n, 1, 96, 96, 3) float32 in -1..1 from (n, 96, 96, 3) uint8 pages."""
    pixels = pages[:, None].astype(np.float32)
    pixels *= np.float32(1 / 127.5)
    pixels -= np.float32(1.0)
    return pixels


def reading_labels(digits: np.ndarray) -> np.ndarray:
    """Returns (n, V) int32, the digit whose cell a token completes, else -1.

    Image tokens are causal in raster order, so of the 3x3 tokens of a cell only the
    bottom row has seen (nearly) all of the digit:

        patch row 0   -1 -1 -1 | -1 -1 -1 | ...
        patch row 1   -1 -1 -1 | -1 -1 -1 | ...
        patch row 2    7  7  7 |  3  3  3 | ...     digits[0] = 7, 3, ...

    Args:
      digits: (n, 3, 4) digits of the pages.
    """
    per_cell = CELL // PATCH
    shape = (len(digits), PATCHES_PER_SIDE, PATCHES_PER_SIDE)
    labels = np.full(shape, NO_LABEL, np.int32)
    bottom = np.arange(GRID_ROWS) * per_cell + per_cell - 1
    assert GRID_COLUMNS * per_cell == PATCHES_PER_SIDE
    labels[:, bottom] = np.repeat(digits, per_cell, axis=2)
    return labels.reshape(len(digits), NUM_IMAGE_TOKENS)
