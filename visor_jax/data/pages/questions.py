"""The ten tasks and all their questions, with answers for any number of pages at once.

Easy tasks need a glance, hard ones a digit or a bar at a place. Rows and columns count
from 1 in the text. Every answer is exactly one word.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from visor_jax.data.pages.pool.facts import GRID_COLUMNS, GRID_ROWS
from visor_jax.data.pages.words import (
    BAR_LETTERS,
    COLOURS,
    DIGITS,
    HALVES,
    NO_YES,
    ids_of,
)

GROUPS = ("easy", "hard")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question; `indices` maps facts, (n,) RECORD, to (n,) indices in `words`."""

    text: str
    words: tuple[str, ...]
    indices: Callable[[np.ndarray], np.ndarray]

    def answers(self, facts: np.ndarray) -> list[str]:
        """Returns the answer for each element of a RECORD array."""
        return [self.words[i] for i in self.indices(np.atleast_1d(facts))]

    @property
    def num_tokens(self) -> int:
        """The question's words, the end of the prompt and the answer."""
        return len(ids_of(self.text)) + 2


@dataclasses.dataclass(frozen=True)
class Task:
    """Questions of one kind; all of them have the same number of tokens."""

    name: str
    group: str
    questions: tuple[Question, ...]

    @property
    def num_tokens(self) -> int:
        return max(q.num_tokens for q in self.questions)


def _cell_digit(row: int, column: int) -> Question:
    return Question(
        f"digit row {row + 1} column {column + 1}",
        DIGITS,
        lambda facts: facts["digits"][:, row, column],
    )


def _digit_at_mark(facts: np.ndarray, shift: int) -> np.ndarray:
    row, column = facts["mark"].astype(int).T
    return facts["digits"][np.arange(len(facts)), row, column + shift]


def _column_of_largest(row: int) -> Question:
    return Question(
        f"column of largest digit row {row + 1}",
        DIGITS,
        # argmax takes the leftmost of equals.
        lambda facts: facts["digits"][:, row].argmax(axis=1) + 1,
    )


def _largest(row: int) -> Question:
    return Question(
        f"largest digit row {row + 1}",
        DIGITS,
        lambda facts: facts["digits"][:, row].max(axis=1),
    )


def _bar(bar: int) -> Question:
    return Question(
        f"bar {BAR_LETTERS[bar]}", DIGITS, lambda facts: facts["bars"][:, bar]
    )


def _single(
    name: str,
    group: str,
    text: str,
    words: tuple[str, ...],
    indices: Callable[[np.ndarray], np.ndarray],
) -> Task:
    return Task(name, group, (Question(text, words, indices),))


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

# In this order tasks are numbered in evaluation batches and reports.
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
TASK_NAMES = tuple(TASKS)
EASY = tuple(t.name for t in _TASKS if t.group == "easy")
HARD = tuple(t.name for t in _TASKS if t.group == "hard")

QUESTIONS = tuple(q for task in _TASKS for q in task.questions)
# The task number of each question.
QUESTION_TASK = np.repeat(np.arange(len(_TASKS)), [len(t.questions) for t in _TASKS])
LONGEST_QUESTION = max(q.num_tokens for q in QUESTIONS)


def question_probabilities(task_weights: dict[str, float]) -> np.ndarray:
    """Returns the chance of each question, (len(QUESTIONS),), given weights of tasks.

    A task that is not named has weight 0; the questions of a task share its weight.

    Raises:
      ValueError: for unknown tasks, negative weights or weights that are all zero.
    """
    unknown = sorted(set(task_weights) - set(TASKS))
    if unknown:
        raise ValueError(f"Unknown tasks {unknown}: there are {list(TASK_NAMES)}.")
    weights = np.array([task_weights.get(name, 0.0) for name in TASK_NAMES], float)
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(
            f"Task weights must be finite, not negative and not all 0: {task_weights}."
        )
    per_task = weights / np.bincount(QUESTION_TASK)
    return per_task[QUESTION_TASK] / weights.sum()
