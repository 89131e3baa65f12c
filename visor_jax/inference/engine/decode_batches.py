"""The answers that are being written, in slots, by budget and bucket.

Slots come into being with the first question of their budget and bucket, and go when
nobody writes there and others need the memory. Where there is never any memory left for
a budget, the others take no new questions after some turns, until there is.
"""

import collections
import dataclasses
from collections.abc import Collection, Container, Hashable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import Member, WaitingRoom, group_size
from visor_jax.inference.engine.packed_prompts import Question, image_shape
from visor_jax.inference.engine.program_shapes import IMAGE_KEYS, SLOTS, ImageKeys
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.generation.decode_step import DecodeState
from visor_jax.runtime.device_cache import Held, num_bytes_of

Place = tuple[Budget, Bucket]
# Row, last slot, segment, slot, limit, draw; see `Admission`.
Admitted = tuple[int, int, int, int, int, int]
# Turns that a budget waits for memory before the others take no new questions.
_PATIENCE = 8


@dataclasses.dataclass
class _Writer:
    """The slots of one budget and bucket, and whose answers they hold."""

    slots: DecodeState
    questions: list[Question | None]

    @property
    def is_busy(self) -> bool:
        return any(question is not None for question in self.questions)

    @property
    def free(self) -> list[int]:
        return [i for i, question in enumerate(self.questions) if question is None]


class Writers:
    """The slots of all budgets and buckets, within the memory's share."""

    def __init__(
        self, programs: Programs, key: Key[Array, ""], *, images_kept: int
    ) -> None:
        """Takes where programs come from, and the key of all random draws.

        images_kept: keys and values of so many images, at most.
        """
        self._programs, self._key = programs, key
        self._writers: Held[Place, _Writer] = Held(
            programs.shapes.share(SLOTS), is_busy=lambda writer: writer.is_busy
        )
        self._images: Held[Hashable, ImageKeys]
        self._images = Held(programs.shapes.share(IMAGE_KEYS), most=images_kept)
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
        return sum(num_bytes_of(writer.slots) for _, writer in self._writers.items())

    def start(
        self,
        budget: Budget,
        bucket: Bucket,
        room: WaitingRoom,
        members: Sequence[Member],
    ) -> None:
        """Puts the members' questions of this budget into free slots.

        Where an image has been behind the same text in this budget before, only the
        members' text is read.
        """
        new, known = [], []
        for member in members:
            images = self._images.get(self._image(member, budget, bucket))
            (new if images is None else known).append((member, images))
        most = self._programs.shapes.rows(bucket)
        for group in (new, known):
            while group:
                size = group_size(len(group), most)
                self._start(budget, bucket, room, group[:size], size)
                group = group[size:]

    def _start(
        self,
        budget: Budget,
        bucket: Bucket,
        room: WaitingRoom,
        group: Sequence[tuple[Member, ImageKeys | None]],
        size: int,
    ) -> None:
        """Starts members whose images are all known, or all new.

        size: rows of the program; the first member fills up.
        """
        programs, writer = self._programs, self._writer(budget, bucket)
        members, images = zip(*group, strict=True)
        filled = [*range(len(group)), *[0] * (size - len(group))]
        table = self._admit(writer, members)
        arguments = (
            programs.params,
            room,
            np.array([members[i].place for i in filled], np.int32),
            writer.slots,
            programs.shapes.admission(table, len(writer.questions)),
            self._key,
        )
        if images[0] is not None:
            again = programs.again(budget, bucket, size)
            writer.slots = again(*arguments, tuple(images[i] for i in filled))
            return
        writer.slots, made = programs.start(budget, bucket, size)(*arguments)
        for member, keys in zip(members, made, strict=False):
            if member.row.image is not None:
                image = self._image(member, budget, bucket)
                self._images.put(image, num_bytes_of(keys), lambda keys=keys: keys)

    def _admit(self, writer: _Writer, members: Sequence[Member]) -> list[Admitted]:
        """Returns the table of an admission, after the questions have their slots."""
        table, free = [], iter(writer.free)
        for number, member in enumerate(members):
            last = member.row.last_slots()
            for place in member.asked:
                question, slot = member.row.questions[place], next(free)
                writer.questions[slot] = question
                segment = member.row.segment_of(place)
                where = (number, int(last[place]), segment, slot)
                table.append((*where, question.limit, question.draw))
        return table

    def _image(self, member: Member, budget: Budget, bucket: Bucket) -> Hashable:
        """Returns what an image's keys and values depend on."""
        return member.row.questions[0].shared, budget, image_shape(bucket)

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
            finished, count, written = jax.device_get(
                (slots.finished, slots.count, slots.written)
            )
            for slot, question in enumerate(writer.questions):
                if question is not None and finished[slot]:
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
        """Forgets all answers, the slots, and who waits."""
        self._writers.clear()
        self._refused.clear()
        self._next = None

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
