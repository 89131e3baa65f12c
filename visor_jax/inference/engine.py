"""The adaptive engine: every question in its own budget, and only that is computed.

    requests -> samples -> rows of one bucket -> read     all that budgets share; scores
             -> the chooser -> groups of one budget -> start    the other layers
             -> slots of one budget -> write -> answers   a few tokens, budgets in turn

Rows wait until those of one budget fill a group; groups go into free slots as soon as
there are any, while other slots write on. Nothing waits for the slowest: a slot is free
when its answer ends, and budgets take turns of a few tokens. An answer depends neither
on its neighbours nor on their number, and equals that of `generation.generate`.

    engine = Engine(model, params, reader, fixed(budget))
    for answer in engine.answers(requests): ...
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.image_files import ImageInput
from visor_jax.inference.answers import Answer
from visor_jax.inference.budget_groups import (
    BudgetGroups,
    WaitingRoom,
    budgets_of_rows,
    group_size,
)
from visor_jax.inference.choosers import Chooser
from visor_jax.inference.image_encoder import ImageCache, ImageEncoder
from visor_jax.inference.intake import Asked, Intake
from visor_jax.inference.programs import Programs, name_of
from visor_jax.inference.prompt_rows import PromptRow, Question, row_arrays
from visor_jax.inference.reader import Reader, Request
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.inference.sizes import Sizes
from visor_jax.inference.slots import Rules
from visor_jax.inference.writers import Writers
from visor_jax.models.vlm import VLM

Params = Any
_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Room:
    """Rows of one bucket that wait for their budgets' turns."""

    arrays: WaitingRoom
    groups: BudgetGroups


class Engine:
    """Answers requests as they come; `submit` and `step`, or `answers` for a stream."""

    def __init__(
        self,
        model: VLM,
        params: Params,
        reader: Reader,
        chooser: Chooser,
        *,
        sizes: Sizes | None = None,
        sampling: Sampling = GREEDY,
        key: Key[Array, ""] | None = None,
        images_kept: int = 64,
        log: Callable[[str], None] = _logger.debug,
    ) -> None:
        """Compiles nothing yet; see `warm_up`.

        Args:
          sizes: None for the default, with the reader's number of new tokens.
          key: for random sampling; a request draws with its `draw` folded in.
          images_kept: encoded images that later requests may find.
          log: gets a line for every program that is compiled.

        Raises:
          ValueError: for budgets of another network, or random sampling without key.
        """
        for budget in chooser.budgets:
            budget.check(model.config.plan)
        if key is None and not sampling.is_greedy:
            raise ValueError(f"{sampling} draws at random: give it a key.")
        self.sizes = sizes or Sizes(new_tokens=reader.new_tokens)
        self.reader, self.chooser = reader, chooser
        self.programs = Programs(
            model,
            params,
            chooser,
            reader.buckets,
            sizes=self.sizes,
            rules=Rules(eos_ids=reader.eos_ids, sampling=sampling),
            log=log,
        )
        self.images = ImageEncoder(self.programs, ImageCache(images_kept))
        self.writers = Writers(self.programs, jax.random.key(0) if key is None else key)
        self._intake = Intake(reader, self.sizes)
        self._rooms: dict[Bucket, _Room] = {}
        self._asked: dict[int, Asked] = {}
        self._payers: set[int] = set()
        self._done: list[Answer] = []

    def submit(self, request: Request, *, max_new_tokens: int | None = None) -> int:
        """Returns the number of the request, which later steps answer.

        Raises:
          ValueError: for more new tokens than the engine's programs can write.
        """
        return self._intake.submit(request, self._limit(max_new_tokens))

    def step(self) -> list[Answer]:
        """Returns the answers that were finished by one round of work, [] if none.

        A round reads and starts what there is room for, then writes a few tokens of
        every budget.
        """
        while (
            self._start_group(full=True)
            or self._read_rows()
            or self._start_group(full=False)
        ):
            pass
        for question, budget, written in self.writers.turn():
            self._finish(question, budget, written)
        done, self._done = self._done, []
        return done

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered."""
        return self._intake.is_empty and not self._asked and not self._done

    def answers(
        self, requests: Iterable[Request] = (), *, max_new_tokens: int | None = None
    ) -> Iterator[Answer]:
        """Yields answers as they are finished; `number` says which request it was.

        Requests are taken from the iterable as there is room for them; those submitted
        before, or meanwhile, are answered too.
        """
        for finished in self.rounds(requests, max_new_tokens=max_new_tokens):
            yield from finished

    def rounds(
        self, requests: Iterable[Request] = (), *, max_new_tokens: int | None = None
    ) -> Iterator[list[Answer]]:
        """Yields what `answers` does round by round, [] where none is finished.

        For whoever wants to stop between two rounds: then no finished answer is lost.
        """
        self._intake.draw_from(requests, self._limit(max_new_tokens))
        while not self.is_idle:
            yield self.step()

    def answer_all(
        self, requests: Sequence[Request], *, max_new_tokens: int | None = None
    ) -> list[Answer]:
        """Returns the answers in the order of the requests."""
        found = self.answers(requests, max_new_tokens=max_new_tokens)
        return sorted(found, key=lambda answer: answer.number)

    def ask_many(
        self, image: ImageInput, questions: Sequence[str], **options: Any
    ) -> list[Answer]:
        """Returns the answers to several questions about one image, which is paid once.

        The tower and the projector run once, and so does the image's part of every
        layer for all questions of one budget that are read together.
        """
        requests = [Request(question, [image]) for question in questions]
        return self.answer_all(requests, **options)

    def warm_up(
        self,
        buckets: Iterable[Bucket] | None = None,
        budgets: Iterable[Budget] | None = None,
        *,
        report: Callable[[int, int, str, float], None] | None = None,
    ) -> int:
        """Compiles all programs for these buckets and budgets; returns how many.

        Args:
          buckets: None for all of the reader's. budgets: None for all of the chooser's.
          report: gets (done, of, name, seconds) after each.
        """
        keys = self.programs.all_keys(
            self.reader.buckets.all if buckets is None else buckets,
            self.chooser.budgets if budgets is None else budgets,
        )
        for done, key in enumerate(keys, 1):
            began = time.perf_counter()
            self.programs.compile(key)
            if report is not None:
                report(done, len(keys), name_of(key), time.perf_counter() - began)
        return len(keys)

    def _limit(self, max_new_tokens: int | None) -> int:
        most = self.sizes.new_tokens
        limit = most if max_new_tokens is None else max_new_tokens
        if not 1 <= limit <= most:
            raise ValueError(f"{max_new_tokens=} must lie in 1..{most}.")
        return limit

    def _take_in(self) -> None:
        for asked in self._intake.take_in():
            if asked.error is None:
                self._asked[asked.number] = asked
            else:
                self._done.append(Answer.refused(asked, asked.error))

    def _read_rows(self) -> bool:
        """Reads a batch of rows into a waiting room; returns whether there was one."""
        self._take_in()
        found = self._intake.rows()
        if found is None:
            return False
        bucket, rows = found
        if bucket not in self._rooms:
            arrays, groups = self.programs.new_room(bucket), self.sizes.waiting
            self._rooms[bucket] = _Room(arrays, BudgetGroups(groups))
        room = self._rooms[bucket]
        possible = min(len(rows), room.groups.free_places, self.sizes.rows)
        if not possible:
            return False
        size = group_size(possible, self.sizes.rows)
        rows = rows[: min(size, possible)]
        self._intake.remove(rows)
        self._read(room, bucket, rows, size)
        return True

    def _read(
        self, room: _Room, bucket: Bucket, rows: list[PromptRow], size: int
    ) -> None:
        images, payers = self.images.of_rows(rows, bucket)
        self._payers |= payers
        places = room.groups.take_places(len(rows))
        fillers = [self.sizes.waiting] * (size - len(rows))
        per_row, pad_id = self.sizes.questions_per_row, self.reader.pad_id
        arrays = row_arrays(rows, bucket, count=size, per_row=per_row, pad_id=pad_id)
        room.arrays, scores = self.programs.read(bucket, size)(
            self.programs.params,
            self.chooser.params,
            room.arrays,
            arrays,
            (*images, *images[-1:] * len(fillers)),
            np.array(places + fillers, np.int32),
        )
        try:
            budgets = iter(budgets_of_rows(self.chooser, rows, scores, per_row))
        except ValueError as error:
            # Rows that nobody can place must not keep the others waiting.
            room.groups.give_back(places)
            for number in (q.number for row in rows for q in row.questions):
                self._payers.discard(number)
                reason = f"no budget was chosen: {error}"
                self._done.append(Answer.refused(self._asked.pop(number), reason))
            return
        for place, row in zip(places, rows, strict=True):
            room.groups.add(place, row, [next(budgets) for _ in row.questions])

    def _start_group(self, *, full: bool) -> bool:
        """Starts a group of one budget; `full`: only one that fills a program."""
        most = self.sizes.rows
        for bucket, room in self._rooms.items():
            for budget in room.groups.budgets():
                free = self.writers.free_slots(budget, bucket)
                fitting = room.groups.fitting(budget, rows=most, questions=free)
                if fitting < (most if full else 1):
                    continue
                size = group_size(fitting, most)
                members = room.groups.take(budget, min(size, fitting))
                self.writers.start(budget, bucket, room.arrays, members, size)
                return True
        return False

    def _finish(self, question: Question, budget: Budget, written: np.ndarray) -> None:
        number = question.number
        answer = Answer.of(
            question,
            budget,
            written,
            self.reader,
            encoded=number in self._payers,
            seconds=time.perf_counter() - self._asked.pop(number).began,
        )
        self._payers.discard(number)
        self._done.append(answer)
