"""Rows of one bucket sorted by the budgets of their requests, until they are prefilled.

A row may hold requests of several budgets: it then stands in several groups, once with
the requests of each, and its place is free when the last of them has been. Requests of
a cascade keep it until their answer is final: they may come back in its second budget.
"""

import collections
import dataclasses
from collections.abc import Container, Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Int

from visor_jax.budget import Budget
from visor_jax.inference.engine.packed_prompts import PromptRow
from visor_jax.inference.routing.router import Router
from visor_jax.models.decoder.decoder import DecoderState


def program_rows(waiting: int, most: int) -> int:
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
    router: Router, rows: Sequence[PromptRow], scores: Array, per_row: int
) -> list[Budget]:
    """Returns the budgets of all requests, row by row: those that they ask for, or
    those that the router chooses.

    Args:
      scores: of the router, for `per_row` requests in each row.

    Raises:
      ValueError: if the router gives no budget, or not one for each.
    """
    places = [
        i * per_row + j for i, row in enumerate(rows) for j in range(len(row.requests))
    ]
    # Nothing to wait for where the router does not look.
    seen = np.asarray(scores) if scores.size else np.zeros(scores.shape)
    requests = [each.request for row in rows for each in row.requests]
    chosen, count = list(router.choose(seen[places], requests)), len(router.budgets)
    if len(chosen) != len(requests) or not all(0 <= i < count for i in chosen):
        raise ValueError(
            f"{type(router).__name__} chose {chosen} for {len(requests)} requests: "
            f"it must give an index below {count} for each."
        )
    asked = [each.budget for row in rows for each in row.requests]
    return [
        router.budgets[i] if budget is None else budget
        for i, budget in zip(chosen, asked, strict=True)
    ]


@flax.struct.dataclass
class PendingRows:
    """Rows that have been through the trunk and wait for their budget, one a place."""

    tokens: Int[Array, "B T"]
    trunk: DecoderState


@dataclasses.dataclass(frozen=True, eq=False)
class RowPart:
    """Requests of one row and one budget.

    place: of the row among the pending ones. row: with all its requests. indices: of
    these requests in the row.
    """

    place: int
    row: PromptRow
    indices: tuple[int, ...]


class BudgetGroups:
    """The pending rows of one bucket, by budget, first come first."""

    def __init__(self, places: int) -> None:
        """Starts with all places free."""
        self._free = collections.deque(range(places))
        self._groups: dict[Budget, collections.deque[RowPart]] = {}
        self._parts_at: collections.Counter[int] = collections.Counter()
        # Requests whose first answer is being written, by number.
        self._first_looks: dict[int, RowPart] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any row has a place."""
        return bool(self._first_looks) or len(self) > 0

    @property
    def free_places(self) -> int:
        return len(self._free)

    def __len__(self) -> int:
        """How many parts wait; a row of two budgets counts twice."""
        return sum(len(group) for group in self._groups.values())

    def take_places(self, count: int) -> list[int]:
        """Returns places for new rows, which must be free."""
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, places: Sequence[int]) -> None:
        """Frees places whose rows were never added."""
        self._free.extend(places)

    def add(self, place: int, row: PromptRow, budgets: Sequence[Budget]) -> None:
        """Sorts a row into the groups of its requests' budgets, one per request."""
        for budget in dict.fromkeys(budgets):
            indices = tuple(i for i, of in enumerate(budgets) if of == budget)
            group = self._groups.setdefault(budget, collections.deque())
            group.append(RowPart(place, row, indices))
            self._parts_at[place] += 1

    def budgets(self) -> list[Budget]:
        """Returns the budgets that rows wait for, that of most rows first."""
        waiting = [budget for budget, group in self._groups.items() if group]
        return sorted(waiting, key=lambda budget: -len(self._groups[budget]))

    def fitting(self, budget: Budget, *, rows: int, requests: int) -> int:
        """Returns how many of the group's first parts hold so many requests."""
        for count, part in enumerate(self._groups[budget]):
            requests -= len(part.indices)
            if requests < 0 or count == rows:
                return count
        return len(self._groups[budget])

    def drop(self, numbers: Container[int]) -> None:
        """Forgets requests with these numbers, and frees the places of their rows."""
        for budget, group in self._groups.items():
            kept: collections.deque[RowPart] = collections.deque()
            for part in group:
                requests = part.row.requests
                left = [i for i in part.indices if requests[i].number not in numbers]
                if left:
                    kept.append(dataclasses.replace(part, indices=tuple(left)))
                else:
                    self._leave(part.place)
            self._groups[budget] = kept
        for number in [n for n in self._first_looks if n in numbers]:
            self.settle(number)

    def settle(self, number: int) -> None:
        """Frees what a request of a cascade kept of its row, if it did."""
        part = self._first_looks.pop(number, None)
        if part is not None:
            self._leave(part.place)

    def look_again(self, number: int, budget: Budget) -> bool:
        """Sorts a request whose first answer is unsure into the group of a budget.

        Returns whether its row is here. Requests of one row that wait go together.
        """
        part = self._first_looks.pop(number, None)
        if part is None:
            return False
        group = self._groups.setdefault(budget, collections.deque())
        for i, other in enumerate(group):
            if other.place == part.place:
                indices = (*other.indices, *part.indices)
                group[i] = dataclasses.replace(other, indices=indices)
                self._leave(part.place)
                return True
        group.append(part)
        return True

    def take(self, budget: Budget, count: int) -> list[RowPart]:
        """Returns and removes the group's first `count` parts; frees their places.

        The rows must be read from their places before others are written there. Those
        of a cascade's first looks keep theirs.
        """
        taken = [self._groups[budget].popleft() for _ in range(count)]
        for part in taken:
            for index in part.indices:
                request = part.row.requests[index]
                if request.cascade is not None and budget == request.cascade.first:
                    kept = dataclasses.replace(part, indices=(index,))
                    self._first_looks[request.number] = kept
                    self._parts_at[part.place] += 1
            self._leave(part.place)
        return taken

    def _leave(self, place: int) -> None:
        self._parts_at[place] -= 1
        if not self._parts_at[place]:
            self._free.append(place)
