"""Rows that have been through the trunk, where budgets part, and wait for their budget.

Those of one bucket lie together, all buckets within the memory's share; where none is
left, the arrays go when another bucket needs their memory, and new rows of that bucket
wait in the queue until then.
"""

import dataclasses
from collections.abc import Container, Iterator, Sequence

import jax
import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import BudgetGroups, PendingRows
from visor_jax.inference.engine.packed_prompts import PromptRow, row_arrays
from visor_jax.inference.engine.program_shapes import PENDING
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.generation.prefill_parts import EncodedImage
from visor_jax.runtime.device_cache import Held, num_bytes_of


@dataclasses.dataclass
class _BucketRows:
    """The pending rows of one bucket, and which budgets they are for."""

    arrays: PendingRows
    groups: BudgetGroups


class PendingPrompts:
    """The pending rows of all buckets."""

    def __init__(self, programs: Programs, pad_id: int) -> None:
        """Takes where programs come from; arrays come with their first rows."""
        self._programs, self._pad_id = programs, pad_id
        self._pending: Held[Bucket, _BucketRows] = Held(
            programs.shapes.share(PENDING),
            is_busy=lambda pending: pending.groups.is_busy,
        )

    def num_bytes(self) -> int:
        """Returns the bytes of all arrays."""
        return sum(num_bytes_of(pending.arrays) for _, pending in self._pending.items())

    def free_places(self, bucket: Bucket) -> int:
        """Returns how many rows of a bucket could come in now."""
        pending, shapes = self._pending.get(bucket), self._programs.shapes
        if pending is not None:
            return pending.groups.free_places
        has_room = self._pending.has_room(shapes.pending_bytes(bucket))
        return shapes.places(bucket) if has_room else 0

    def prefill_trunk(
        self,
        bucket: Bucket,
        rows: Sequence[PromptRow],
        images: Sequence[EncodedImage],
        size: int,
    ) -> tuple[list[int], jax.Array]:
        """Puts rows into free places; returns these and the router's scores.

        size: rows of the program; the last image fills up.
        """
        pending, shapes = self._of_bucket(bucket), self._programs.shapes
        places = pending.groups.take_places(len(rows))
        fillers = size - len(rows)
        arrays = row_arrays(
            rows,
            bucket,
            count=size,
            per_row=shapes.requests_per_row(bucket),
            pad_id=self._pad_id,
        )
        pending.arrays, scores = self._programs.prefill_trunk(bucket, size)(
            self._programs.params,
            self._programs.router.params,
            pending.arrays,
            arrays,
            (*images, *images[-1:] * fillers),
            np.array(places + [shapes.places(bucket)] * fillers, np.int32),
        )
        return places, scores

    def add(
        self,
        bucket: Bucket,
        places: Sequence[int],
        rows: Sequence[PromptRow],
        budgets: Sequence[Budget],
    ) -> None:
        """Sorts rows that have places by budgets, one for each request, row by row."""
        following = iter(budgets)
        for place, row in zip(places, rows, strict=True):
            chosen = [next(following) for _ in row.requests]
            self._of_bucket(bucket).groups.add(place, row.without_pixels(), chosen)

    def give_back(self, bucket: Bucket, places: Sequence[int]) -> None:
        """Frees places whose rows were never added."""
        self._of_bucket(bucket).groups.give_back(places)

    def groups(self) -> Iterator[tuple[Bucket, Budget, BudgetGroups, PendingRows]]:
        """Yields every group of one budget, with its bucket's groups and arrays."""
        for bucket, pending in self._pending.items():
            for budget in pending.groups.budgets():
                yield bucket, budget, pending.groups, pending.arrays

    def look_again(self, number: int, budget: Budget) -> None:
        """Lets a request of a cascade wait again, in its second budget."""
        groups = (pending.groups for _, pending in self._pending.items())
        if not any(each.look_again(number, budget) for each in groups):
            raise KeyError(f"request {number} has kept no row")

    def settle(self, number: int) -> None:
        """Frees what a request of a cascade kept, now that its answer is final."""
        for _, pending in self._pending.items():
            pending.groups.settle(number)

    def drop(self, numbers: Container[int]) -> None:
        """Forgets requests with these numbers."""
        for _, pending in self._pending.items():
            pending.groups.drop(numbers)

    def clear(self) -> None:
        """Forgets all rows and their arrays."""
        self._pending.clear()

    def _of_bucket(self, bucket: Bucket) -> _BucketRows:
        pending = self._pending.get(bucket)
        if pending is not None:
            return pending
        programs, shapes = self._programs, self._programs.shapes
        return self._pending.put(
            bucket,
            shapes.pending_bytes(bucket),
            lambda: _BucketRows(
                programs.new_pending(bucket), BudgetGroups(shapes.places(bucket))
            ),
        )
