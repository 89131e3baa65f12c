"""A book of questions: all that pages of one kind can be asked, by task.

Every answer is exactly one token. What a book says of its questions it says for any
number of pages at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from visor_jax.data.pages.vocabulary import EOS, PAD, PROMPT_END, Vocabulary

GROUPS = ("easy", "hard")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question; `indices` maps facts, (n,) records, to (n,) indices in `words`.

    vocabulary: of the text and the words.
    tiles: maps facts to (n, k), the tiles that show what is asked; None where the page
      as a whole does.
    """

    text: str
    words: tuple[str, ...]
    indices: Callable[[np.ndarray], np.ndarray]
    vocabulary: Vocabulary
    tiles: Callable[[np.ndarray], np.ndarray] | None = None

    def answers(self, facts: np.ndarray) -> list[str]:
        """Returns the answer for each element of an array of records."""
        return [self.words[i] for i in self.indices(np.atleast_1d(facts))]

    @functools.cached_property
    def num_tokens(self) -> int:
        """The question's words, the end of the prompt and the answer."""
        return len(self.vocabulary.ids_of(self.text)) + 2


@dataclasses.dataclass(frozen=True)
class Task:
    """Questions of one kind; all of them have the same number of tokens."""

    name: str
    group: str
    questions: tuple[Question, ...]

    @property
    def num_tokens(self) -> int:
        return max(q.num_tokens for q in self.questions)


@dataclasses.dataclass(frozen=True, eq=False)
class Book:
    """The tasks of a kind of pages; in this order they are numbered everywhere.

    vocabulary: of all questions and answers.
    """

    vocabulary: Vocabulary
    tasks: tuple[Task, ...]

    @functools.cached_property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @functools.cached_property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the tasks of each group."""
        return {
            group: tuple(task.name for task in self.tasks if task.group == group)
            for group in GROUPS
        }

    @functools.cached_property
    def questions(self) -> tuple[Question, ...]:
        return tuple(q for task in self.tasks for q in task.questions)

    @functools.cached_property
    def question_task(self) -> np.ndarray:
        """The task number of each question."""
        counts = [len(task.questions) for task in self.tasks]
        return np.repeat(np.arange(len(self.tasks)), counts)

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of the longest question, its answer included."""
        return int(self.lengths.max())

    @functools.cached_property
    def every_task(self) -> int:
        """Tokens of a row that asks every task once: the same for every page."""
        return sum(task.num_tokens for task in self.tasks)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each question, its answer included, (questions,) int32."""
        return np.array([q.num_tokens for q in self.questions], np.int32)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Every question, tokenised once, (questions, longest) int32.

        The answer's place is left at padding.
        """
        table = np.full((len(self.questions), self.longest), self.pad_id, np.int32)
        for row, question in zip(table, self.questions, strict=True):
            ids = self.vocabulary.ids_of(f"{question.text} {PROMPT_END}")
            row[: len(ids)] = ids
        return table

    @property
    def pad_id(self) -> int:
        return self.vocabulary.ids[PAD]

    @property
    def eos_id(self) -> int:
        return self.vocabulary.ids[EOS]

    def answers(self, facts: np.ndarray) -> np.ndarray:
        """Returns (n, questions) uint8, the token id of each answer about each page."""
        table = np.empty((len(facts), len(self.questions)), np.uint8)
        for i, question in enumerate(self.questions):
            ids = [self.vocabulary.ids[word] for word in question.words]
            table[:, i] = np.array(ids, np.uint8)[question.indices(facts)]
        return table

    def asked_tiles(self, facts: np.ndarray) -> np.ndarray:
        """Returns (n, questions) int32: bit t is set where a question asks tile t.

        0 where the page as a whole shows the answer.
        """
        table = np.zeros((len(facts), len(self.questions)), np.int32)
        for i, question in enumerate(self.questions):
            if question.tiles is not None:
                bits = np.int32(1) << question.tiles(facts).astype(np.int32)
                table[:, i] = np.bitwise_or.reduce(bits, axis=1)
        return table

    def probabilities(
        self, task_weights: Mapping[str, float], may: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the chance of each question, (questions,), given weights of tasks.

        A task that is not named has weight 0; the questions of a task share its weight.

        Args:
          may: (questions,) bool, which may be asked, None for all. What a task's other
            questions would have had goes to those that may; tasks without one drop out.

        Raises:
          ValueError: for unknown tasks, negative weights or weights that are all zero.
        """
        unknown = sorted(set(task_weights) - set(self.task_names))
        if unknown:
            raise ValueError(
                f"Unknown tasks {unknown}: there are {list(self.task_names)}."
            )
        may = np.ones(len(self.questions), bool) if may is None else may
        asked = np.bincount(self.question_task, may, minlength=len(self.tasks))
        weights = [task_weights.get(name, 0.0) for name in self.task_names]
        weights = np.array(weights, float)
        weights *= asked > 0
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
            raise ValueError(
                "Weights of the tasks that may be asked must be finite, not negative "
                f"and not all 0: {task_weights}."
            )
        per_task = weights / np.maximum(asked, 1)
        return per_task[self.question_task] * may / weights.sum()
