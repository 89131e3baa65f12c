"""The ten tasks and all their questions, with answers for any number of pages at once.

Easy tasks need a glance, hard ones a digit or a bar at a place. Rows and columns count
from 1 in the text. Every answer is exactly one word.
"""

from collections.abc import Callable

import numpy as np

from visor_jax.data.pages.book import GROUPS, Book, Question, Task
from visor_jax.data.pages.pool.facts import GRID_COLUMNS, GRID_ROWS
from visor_jax.data.pages.words import (
    BAR_LETTERS,
    COLOURS,
    DIGITS,
    HALVES,
    NO_YES,
    WORDS,
)

_Indices = Callable[[np.ndarray], np.ndarray]


def _question(text: str, words: tuple[str, ...], indices: _Indices) -> Question:
    return Question(text, words, indices, WORDS)


def _cell_digit(row: int, column: int) -> Question:
    return _question(
        f"digit row {row + 1} column {column + 1}",
        DIGITS,
        lambda facts: facts["digits"][:, row, column],
    )


def _digit_at_mark(facts: np.ndarray, shift: int) -> np.ndarray:
    row, column = facts["mark"].astype(int).T
    return facts["digits"][np.arange(len(facts)), row, column + shift]


def _column_of_largest(row: int) -> Question:
    return _question(
        f"column of largest digit row {row + 1}",
        DIGITS,
        # argmax takes the leftmost of equals.
        lambda facts: facts["digits"][:, row].argmax(axis=1) + 1,
    )


def _largest(row: int) -> Question:
    return _question(
        f"largest digit row {row + 1}",
        DIGITS,
        lambda facts: facts["digits"][:, row].max(axis=1),
    )


def _bar(bar: int) -> Question:
    return _question(
        f"bar {BAR_LETTERS[bar]}", DIGITS, lambda facts: facts["bars"][:, bar]
    )


def _single(
    name: str,
    group: str,
    text: str,
    words: tuple[str, ...],
    indices: _Indices,
) -> Task:
    return Task(name, group, (_question(text, words, indices),))


_ROWS = range(GRID_ROWS)
_TASKS = (
    _single("colour", "easy", "page colour", COLOURS, lambda f: f["colour"]),
    _single("ring", "easy", "ring", NO_YES, lambda f: f["ring"].astype(int)),
    _single("half", "easy", "dark half", HALVES, lambda f: f["dark_half"]),
    _single(
        "square", "easy", "orange square", NO_YES, lambda f: 1 * (f["squares"] > 0)
    ),
    Task(
        "read",
        "hard",
        tuple(_cell_digit(r, c) for r in _ROWS for c in range(GRID_COLUMNS)),
    ),
    _single("mark", "hard", "marked digit", DIGITS, lambda f: _digit_at_mark(f, 0)),
    _single(
        "rmark", "hard", "digit right of mark", DIGITS, lambda f: _digit_at_mark(f, 1)
    ),
    Task("argmax", "hard", tuple(_column_of_largest(r) for r in _ROWS)),
    Task("max", "hard", tuple(_largest(r) for r in _ROWS)),
    Task("bar", "hard", tuple(_bar(i) for i in range(len(BAR_LETTERS)))),
)

BOOK = Book(WORDS, _TASKS)

# In this order tasks are numbered in evaluation batches and reports.
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
TASK_NAMES = BOOK.task_names
EASY, HARD = (BOOK.groups[group] for group in GROUPS)

QUESTIONS = BOOK.questions
QUESTION_TASK = BOOK.question_task
LONGEST_QUESTION = BOOK.longest
question_probabilities = BOOK.probabilities
