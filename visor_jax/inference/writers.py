"""The answers that are being written, in slots, by budget and bucket."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.budget_groups import Member
from visor_jax.inference.programs import Programs, WaitingRoom
from visor_jax.inference.prompt_rows import Question
from visor_jax.inference.slots import Slots


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
    """Slots come into being with the first question of their budget and bucket."""

    def __init__(self, programs: Programs, key: Key[Array, ""]) -> None:
        """Takes where programs come from, and the key of all random draws."""
        self._programs, self._key = programs, key
        self._writers: dict[tuple[Budget, Bucket], _Writer] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any answer is being written."""
        return any(writer.is_busy for writer in self._writers.values())

    def free_slots(self, budget: Budget, bucket: Bucket) -> int:
        """Returns how many questions of this budget and bucket could start."""
        writer = self._writers.get((budget, bucket))
        return self._programs.sizes.slots if writer is None else len(writer.free)

    def num_bytes(self) -> dict[tuple[Budget, Bucket], int]:
        """Returns the bytes of keys and values that the slots of each hold."""
        writers = self._writers.items()
        return {key: writer.slots.cache.num_bytes() for key, writer in writers}

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
        writer.slots = self._programs.start(budget, bucket, size)(
            self._programs.params,
            room,
            np.array(places, np.int32),
            writer.slots,
            self._programs.admission(table),
            self._key,
        )

    def turn(self) -> Iterator[tuple[Question, Budget, np.ndarray]]:
        """Yields (question, budget, tokens) of what a turn of every budget finished.

        All turns are on their way before the first is looked at.
        """
        busy = [(key, w) for key, w in self._writers.items() if w.is_busy]
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

    def _writer(self, budget: Budget, bucket: Bucket) -> _Writer:
        if (budget, bucket) not in self._writers:
            slots = self._programs.new_slots(budget, bucket)
            nobody: list[Question | None] = [None] * self._programs.sizes.slots
            self._writers[budget, bucket] = _Writer(slots, nobody)
        return self._writers[budget, bucket]
