"""The answers that are being written, in slots, by budget and bucket.

Slots come into being with the first question of their budget and bucket, and go when
nobody writes there and others need the memory. Where there is never any memory left for
a budget, the others take no new questions after some turns, until there is.
"""

import collections
import dataclasses
from collections.abc import Collection, Container, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.budget_groups import Member
from visor_jax.inference.held import Held
from visor_jax.inference.programs import Programs, WaitingRoom
from visor_jax.inference.prompt_rows import Question
from visor_jax.inference.shapes import SLOTS
from visor_jax.inference.slots import Slots

Place = tuple[Budget, Bucket]
# Turns that a budget waits for memory before the others take no new questions.
_PATIENCE = 8


@dataclasses.dataclass
class _Writer:
    """The slots of one budget and bucket, and whose answers they hold."""

    slots: Slots
    questions: list[Question | None]

    @property
    def is_busy(self) -> bool:
        return any(question is not None for question in self.questions)

    @property
    def free(self) -> list[int]:
        return [i for i, question in enumerate(self.questions) if question is None]


class Writers:
    """The slots of all budgets and buckets, within the memory's share."""

    def __init__(self, programs: Programs, key: Key[Array, ""]) -> None:
        """Takes where programs come from, and the key of all random draws."""
        self._programs, self._key = programs, key
        self._writers: Held[Place, _Writer] = Held(
            programs.shapes.share(SLOTS), is_busy=lambda writer: writer.is_busy
        )
        self._refused: collections.Counter[Place] = collections.Counter()
        # For whom the memory is that comes free next.
        self._next: Place | None = None

    def free_slots(self, budget: Budget, bucket: Bucket) -> int:
        """Returns how many questions of this budget and bucket could start."""
        if self._next not in (None, (budget, bucket)):
            return 0
        writer = self._writers.get((budget, bucket))
        if writer is not None:
            return len(writer.free)
        has_room = self._has_room((budget, bucket))
        return self._programs.shapes.slots(budget, bucket) if has_room else 0

    def cache_bytes(self) -> dict[Place, int]:
        """Returns the bytes of keys and values that the slots of each hold."""
        writers = self._writers.items()
        return {place: writer.slots.cache.num_bytes() for place, writer in writers}

    def num_bytes(self) -> int:
        """Returns the bytes of all slots, with answers and tags."""
        return sum(
            x.nbytes for _, w in self._writers.items() for x in jax.tree.leaves(w.slots)
        )

    def start(
        self,
        budget: Budget,
        bucket: Bucket,
        room: WaitingRoom,
        members: Sequence[Member],
        size: int,
    ) -> None:
        """Puts the members' questions of this budget into free slots.

        size: rows of the program; the first member fills up.
        """
        writer = self._writer(budget, bucket)
        table, free = [], iter(writer.free)
        for number, member in enumerate(members):
            last = member.row.last_slots()
            for place in member.asked:
                question, slot = member.row.questions[place], next(free)
                writer.questions[slot] = question
                segment = member.row.segment_of(place)
                where = (number, int(last[place]), segment, slot)
                table.append((*where, question.limit, question.draw))
        places = [member.place for member in members]
        places += places[:1] * (size - len(places))
        slots = len(writer.questions)
        writer.slots = self._programs.start(budget, bucket, size)(
            self._programs.params,
            room,
            np.array(places, np.int32),
            writer.slots,
            self._programs.shapes.admission(table, slots),
            self._key,
        )

    def turn(self) -> Iterator[tuple[Question, Budget, np.ndarray]]:
        """Yields (question, budget, tokens) of what a turn of every budget finished.

        All turns are on their way before the first is looked at.
        """
        busy = [(place, w) for place, w in self._writers.items() if w.is_busy]
        for (budget, bucket), writer in busy:
            program = self._programs.write(budget, bucket)
            writer.slots = program(self._programs.params, writer.slots)
        for (budget, _), writer in busy:
            slots = writer.slots
            active, count, written = jax.device_get(
                (slots.active, slots.count, slots.written)
            )
            for slot, question in enumerate(writer.questions):
                if question is not None and not active[slot]:
                    writer.questions[slot] = None
                    yield question, budget, written[slot, : count[slot]]

    def keep_turns(self, waiting: Collection[Place]) -> None:
        """Notes after a turn who waits to start, so that nobody waits for ever."""
        refused = [
            place
            for place in waiting
            if self._writers.get(place) is None and not self._has_room(place)
        ]
        self._refused = collections.Counter({p: self._refused[p] + 1 for p in refused})
        if self._next not in waiting:
            self._next = None
        if self._next is None and refused:
            longest = max(refused, key=lambda place: self._refused[place])
            if self._refused[longest] > _PATIENCE:
                self._next = longest

    def drop(self, numbers: Container[int]) -> None:
        """Frees the slots of questions with these numbers."""
        for _, writer in self._writers.items():
            writer.questions = [
                None if q is None or q.number in numbers else q
                for q in writer.questions
            ]

    def clear(self) -> None:
        """Forgets all answers, and the slots."""
        self._writers.clear()

    def _has_room(self, place: Place) -> bool:
        return self._writers.has_room(self._programs.shapes.slots_bytes(*place))

    def _writer(self, budget: Budget, bucket: Bucket) -> _Writer:
        place, shapes = (budget, bucket), self._programs.shapes
        if self._next == place:
            self._next = None
        writer = self._writers.get(place)
        if writer is not None:
            return writer
        nobody: list[Question | None] = [None] * shapes.slots(budget, bucket)
        return self._writers.put(
            place,
            shapes.slots_bytes(budget, bucket),
            lambda: _Writer(self._programs.new_slots(budget, bucket), nobody),
        )
