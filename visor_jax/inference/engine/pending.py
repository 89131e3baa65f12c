"""Rows that have been read up to where budgets part, and wait for their budget's turn.

One room per bucket, all of them within the memory's share; a room that is empty goes
when another bucket needs its memory, and rows of that bucket wait outside until then.
"""

import dataclasses
from collections.abc import Container, Iterator, Sequence

import jax
import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import BudgetGroups, WaitingRoom
from visor_jax.inference.engine.packed_prompts import PromptRow, row_arrays
from visor_jax.inference.engine.program_shapes import WAITING, EncodedImage
from visor_jax.inference.engine.programs import Programs
from visor_jax.runtime.device_cache import Held, num_bytes_of


@dataclasses.dataclass
class _Room:
    arrays: WaitingRoom
    groups: BudgetGroups


class WaitingRooms:
    """The rooms of all buckets."""

    def __init__(self, programs: Programs, pad_id: int) -> None:
        """Takes where programs come from; rooms come with their first rows."""
        self._programs, self._pad_id = programs, pad_id
        self._rooms: Held[Bucket, _Room] = Held(
            programs.shapes.share(WAITING), is_busy=lambda room: len(room.groups) > 0
        )

    def num_bytes(self) -> int:
        """Returns the bytes of all rooms."""
        return sum(num_bytes_of(room.arrays) for _, room in self._rooms.items())

    def free_places(self, bucket: Bucket) -> int:
        """Returns how many rows of a bucket could come in now."""
        room, shapes = self._rooms.get(bucket), self._programs.shapes
        if room is not None:
            return room.groups.free_places
        has_room = self._rooms.has_room(shapes.room_bytes(bucket))
        return shapes.places(bucket) if has_room else 0

    def read(
        self,
        bucket: Bucket,
        rows: Sequence[PromptRow],
        images: Sequence[EncodedImage],
        size: int,
    ) -> tuple[list[int], jax.Array]:
        """Reads rows into free places; returns these and the chooser's scores.

        size: rows of the program; the last image fills up.
        """
        room, shapes = self._room(bucket), self._programs.shapes
        places = room.groups.take_places(len(rows))
        fillers = size - len(rows)
        arrays = row_arrays(
            rows,
            bucket,
            count=size,
            per_row=shapes.questions_per_row(bucket),
            pad_id=self._pad_id,
        )
        room.arrays, scores = self._programs.read(bucket, size)(
            self._programs.params,
            self._programs.chooser.params,
            room.arrays,
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
        """Sorts rows that were read by budgets, one for each question, row by row."""
        following = iter(budgets)
        for place, row in zip(places, rows, strict=True):
            chosen = [next(following) for _ in row.questions]
            self._room(bucket).groups.add(place, row.without_pixels(), chosen)

    def give_back(self, bucket: Bucket, places: Sequence[int]) -> None:
        """Frees places whose rows were never added."""
        self._room(bucket).groups.give_back(places)

    def waiting(self) -> Iterator[tuple[Bucket, Budget, BudgetGroups, WaitingRoom]]:
        """Yields every group that waits, with its bucket's groups and room."""
        for bucket, room in self._rooms.items():
            for budget in room.groups.budgets():
                yield bucket, budget, room.groups, room.arrays

    def drop(self, numbers: Container[int]) -> None:
        """Forgets questions with these numbers."""
        for _, room in self._rooms.items():
            room.groups.drop(numbers)

    def clear(self) -> None:
        """Forgets all rows and their rooms."""
        self._rooms.clear()

    def _room(self, bucket: Bucket) -> _Room:
        room = self._rooms.get(bucket)
        if room is not None:
            return room
        programs, shapes = self._programs, self._programs.shapes
        return self._rooms.put(
            bucket,
            shapes.room_bytes(bucket),
            lambda: _Room(
                programs.new_room(bucket), BudgetGroups(shapes.places(bucket))
            ),
        )
