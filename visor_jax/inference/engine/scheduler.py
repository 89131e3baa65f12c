"""What the engine does next: rounds of reading, starting and writing."""

import time

import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.processor import Reader
from visor_jax.inference.answers import Answer
from visor_jax.inference.engine.budget_groups import budgets_of_rows, group_size
from visor_jax.inference.engine.decode_batches import Writers
from visor_jax.inference.engine.image_cache import ImageEncoder
from visor_jax.inference.engine.packed_prompts import PromptRow, Question
from visor_jax.inference.engine.pending import WaitingRooms
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.engine.request_queue import Asked, Intake, Source


class Scheduler:
    """Everything that was asked and is not answered, wherever it stands.

    done: what is finished and not handed out yet, and where it was drawn from.
    """

    def __init__(
        self,
        programs: Programs,
        reader: Reader,
        images: ImageEncoder,
        writers: Writers,
    ) -> None:
        """Starts without requests."""
        self.programs, self.shapes = programs, programs.shapes
        self.reader, self.images = reader, images
        self.rooms = WaitingRooms(programs, reader.pad_id)
        self.writers = writers
        self.intake = Intake(reader, self.shapes)
        self.done: list[tuple[Answer, Source | None]] = []
        self._asked: dict[int, Asked] = {}
        self._payers: set[int] = set()

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered, and every answer handed out."""
        return self.intake.is_empty and not self._asked and not self.done

    def round(self) -> None:
        """Reads, starts and writes; whatever goes wrong, nothing is left half done."""
        try:
            while (
                self._start_group(full=True)
                or self._read_rows()
                or self._start_group(full=False)
            ):
                pass
            for question, budget, written in self.writers.turn():
                self._finish(question, budget, written)
            waiting = [(budget, bucket) for bucket, budget, *_ in self.rooms.waiting()]
            self.writers.keep_turns(waiting)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Leaves the engine as new but for what is compiled and encoded."""
        for part in (self.intake, self.rooms, self.writers):
            part.clear()
        for part in (self._asked, self._payers, self.done):
            part.clear()

    def drop(self, source: Source) -> None:
        """Forgets what was drawn from a source and is not answered."""
        numbers = {n for n, asked in self._asked.items() if asked.source is source}
        for part in (self.rooms, self.writers):
            part.drop(numbers)
        self.intake.drop(source, numbers)
        for number in numbers:
            del self._asked[number]
        self._payers -= numbers
        self.done = [each for each in self.done if each[1] is not source]

    def _take_in(self) -> None:
        for asked in self.intake.take_in():
            if asked.error is None:
                self._asked[asked.number] = asked
            else:
                self.done.append((Answer.refused(asked, asked.error), asked.source))

    def _read_rows(self) -> bool:
        """Reads a batch of rows into a waiting room; returns whether there was one."""
        self._take_in()
        found = self.intake.rows()
        if found is None:
            return False
        bucket, rows = found
        most = self.shapes.rows(bucket)
        possible = min(len(rows), self.rooms.free_places(bucket), most)
        if not possible:
            return False
        size = group_size(possible, most)
        rows = rows[: min(size, possible)]
        self.intake.remove(rows)
        self._read(bucket, rows, size)
        return True

    def _read(self, bucket: Bucket, rows: list[PromptRow], size: int) -> None:
        images, payers = self.images.of_rows(rows, bucket)
        self._payers |= payers
        places, scores = self.rooms.read(bucket, rows, images, size)
        per_row = self.shapes.questions_per_row(bucket)
        try:
            budgets = budgets_of_rows(self.programs.chooser, rows, scores, per_row)
        except ValueError as error:
            # Rows that nobody can place must not keep the others waiting.
            self.rooms.give_back(bucket, places)
            for number in (q.number for row in rows for q in row.questions):
                self._payers.discard(number)
                asked = self._asked.pop(number)
                answer = Answer.refused(asked, f"no budget was chosen: {error}")
                self.done.append((answer, asked.source))
            return
        self.rooms.add(bucket, places, rows, budgets)

    def _start_group(self, *, full: bool) -> bool:
        """Starts a group of one budget; `full`: only one that fills a program."""
        for bucket, budget, groups, arrays in self.rooms.waiting():
            most = self.shapes.rows(bucket)
            free = self.writers.free_slots(budget, bucket)
            fitting = groups.fitting(budget, rows=most, questions=free)
            if fitting < (most if full else 1):
                continue
            size = group_size(fitting, most)
            members = groups.take(budget, min(size, fitting))
            self.writers.start(budget, bucket, arrays, members)
            return True
        return False

    def _finish(self, question: Question, budget: Budget, written: np.ndarray) -> None:
        number = question.number
        asked = self._asked.pop(number)
        answer = Answer.of(
            question,
            budget,
            written,
            self.reader,
            encoded=number in self._payers,
            seconds=time.perf_counter() - asked.began,
        )
        self._payers.discard(number)
        self.done.append((answer, asked.source))
