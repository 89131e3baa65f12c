"""Rows of one bucket sorted by the budgets of their questions, until they are started.

A row may hold questions of several budgets: it then stands in several groups, once with
the questions of each, and its place is free when the last of them has been started.
"""

import collections
import dataclasses
from collections.abc import Container, Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Int

from visor_jax.budget import Budget
from visor_jax.inference.engine.packed_prompts import PromptRow
from visor_jax.inference.routing.router import Chooser
from visor_jax.models.decoder.decoder import DecoderState


def group_size(waiting: int, most: int) -> int:
    """Returns how many rows a program should take, a power of two up to `most`.

    All that wait, if they fill at least three quarters of it; else the next smaller
    one, so that padding never costs much:

        waiting  1  2  3  4  5  6  7  8  9        most = 8
        rows     1  2  4  4  4  8  8  8  8
    """
    waiting = min(waiting, most)
    above = 1 << (waiting - 1).bit_length()
    return above if 4 * waiting >= 3 * above else above // 2


def budgets_of_rows(
    chooser: Chooser, rows: Sequence[PromptRow], scores: Array, per_row: int
) -> list[Budget]:
    """Returns the budgets of all questions, row by row.

    Args:
      scores: of the chooser, for `per_row` questions in each row.

    Raises:
      ValueError: if the chooser gives no budget, or not one for each.
    """
    asked = [
        i * per_row + j for i, row in enumerate(rows) for j in range(len(row.questions))
    ]
    # Nothing to wait for where the chooser does not look.
    seen = np.asarray(scores) if scores.size else np.zeros(scores.shape)
    requests = [q.request for row in rows for q in row.questions]
    chosen, count = list(chooser.choose(seen[asked], requests)), len(chooser.budgets)
    if len(chosen) != len(requests) or not all(0 <= i < count for i in chosen):
        raise ValueError(
            f"{type(chooser).__name__} chose {chosen} for {len(requests)} questions: "
            f"it must give an index below {count} for each."
        )
    return [chooser.budgets[i] for i in chosen]


@flax.struct.dataclass
class WaitingRoom:
    """Rows that have been read and wait for their budget's turn, one per place."""

    tokens: Int[Array, "B T"]
    trunk: DecoderState


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """Questions of one row and one budget.

    place: of the row in the waiting room. row: with all its questions. asked: which of
    them, by their place in the row.
    """

    place: int
    row: PromptRow
    asked: tuple[int, ...]


class BudgetGroups:
    """The rows of one bucket's waiting room, by budget, first come first."""

    def __init__(self, places: int) -> None:
        """Starts with all places free."""
        self._free = collections.deque(range(places))
        self._groups: dict[Budget, collections.deque[Member]] = {}
        self._open: collections.Counter[int] = collections.Counter()

    @property
    def free_places(self) -> int:
        return len(self._free)

    def __len__(self) -> int:
        """How many members wait; a row of two budgets counts twice."""
        return sum(len(group) for group in self._groups.values())

    def take_places(self, count: int) -> list[int]:
        """Returns places for new rows, which must be free."""
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, places: Sequence[int]) -> None:
        """Frees places whose rows were never added."""
        self._free.extend(places)

    def add(self, place: int, row: PromptRow, budgets: Sequence[Budget]) -> None:
        """Sorts a row into the groups of its questions' budgets, one per question."""
        for budget in dict.fromkeys(budgets):
            asked = tuple(i for i, of in enumerate(budgets) if of == budget)
            group = self._groups.setdefault(budget, collections.deque())
            group.append(Member(place, row, asked))
            self._open[place] += 1

    def budgets(self) -> list[Budget]:
        """Returns the budgets that rows wait for, that of most rows first."""
        waiting = [budget for budget, group in self._groups.items() if group]
        return sorted(waiting, key=lambda budget: -len(self._groups[budget]))

    def fitting(self, budget: Budget, *, rows: int, questions: int) -> int:
        """Returns how many of the group's first members hold so many questions."""
        for count, member in enumerate(self._groups[budget]):
            questions -= len(member.asked)
            if questions < 0 or count == rows:
                return count
        return len(self._groups[budget])

    def drop(self, numbers: Container[int]) -> None:
        """Forgets questions with these numbers, and frees the places of their rows."""
        for budget, group in self._groups.items():
            kept: collections.deque[Member] = collections.deque()
            for member in group:
                questions = member.row.questions
                left = [i for i in member.asked if questions[i].number not in numbers]
                if left:
                    kept.append(dataclasses.replace(member, asked=tuple(left)))
                else:
                    self._leave(member.place)
            self._groups[budget] = kept

    def take(self, budget: Budget, count: int) -> list[Member]:
        """Returns and removes the group's first `count` members; frees their places.

        The rows must be read from their places before others are written there.
        """
        taken = [self._groups[budget].popleft() for _ in range(count)]
        for member in taken:
            self._leave(member.place)
        return taken

    def _leave(self, place: int) -> None:
        self._open[place] -= 1
        if not self._open[place]:
            self._free.append(place)
