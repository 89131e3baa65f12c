"""Requests on their way in: read into questions, packed into rows, sorted by bucket."""

import collections
import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator

from visor_jax.data.buckets import Bucket
from visor_jax.inference.prompt_rows import PromptRow, Question, pack
from visor_jax.inference.reader import Reader, Request
from visor_jax.inference.sizes import Sizes

# How often rows of another bucket may go before the oldest question.
_PATIENCE = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that has been taken in. error: why it cannot be answered, or None."""

    number: int
    request: Request
    began: float
    error: str | None = None


class Intake:
    """Takes requests from those submitted, then from an iterable, as room permits."""

    def __init__(self, reader: Reader, sizes: Sizes) -> None:
        """Starts without requests."""
        self._reader, self._sizes = reader, sizes
        self._numbers = itertools.count()
        self._submitted: collections.deque[tuple[int, Request, int]]
        self._submitted = collections.deque()
        self._sources: collections.deque[Iterator[tuple[Request, int]]]
        self._sources = collections.deque()
        self._waiting: list[Question] = []
        self._passed_over = 0

    @property
    def is_empty(self) -> bool:
        """Whether no request is left that has not been handed on."""
        return not (self._submitted or self._sources or self._waiting)

    def submit(self, request: Request, limit: int) -> int:
        """Returns the request's number. limit: most tokens of its answer."""
        number = next(self._numbers)
        self._submitted.append((number, request, limit))
        return number

    def draw_from(self, requests: Iterable[Request], limit: int) -> None:
        """Takes requests from the iterable too, when none is submitted."""
        self._sources.append((request, limit) for request in requests)

    def take_in(self) -> list[Asked]:
        """Reads requests until enough questions wait to choose rows from.

        A request that cannot be read is only that: the others go on.
        """
        taken = []
        most = self._sizes.waiting
        # Errors are handed on as they come, too, not after the last of them.
        while len(self._waiting) < most and len(taken) < most:
            following = self._next()
            if following is None:
                break
            number, request, limit = following
            asked = Asked(number=number, request=request, began=time.perf_counter())
            try:
                sample = self._reader.sample(request, room=limit)
                question = Question.of(number, request, sample, limit)
                self._reader.buckets.choose(sample)
            except (ValueError, OSError) as error:
                reason = str(error) or type(error).__name__
                asked = dataclasses.replace(asked, error=reason)
            else:
                self._waiting.append(question)
            taken.append(asked)
        return taken

    def rows(self) -> tuple[Bucket, list[PromptRow]] | None:
        """Returns waiting rows of one bucket, oldest first; None if there are none.

        Of the bucket that has most rows, but the oldest row's bucket has its turn, too.
        """
        if not self._waiting:
            return None
        per_row = self._sizes.questions_per_row
        rows = pack(self._waiting, self._reader.buckets, per_row=per_row)
        counts = collections.Counter(row.bucket for row in rows)
        oldest, chosen = rows[0].bucket, max(counts, key=lambda bucket: counts[bucket])
        if self._passed_over >= _PATIENCE or counts[chosen] == counts[oldest]:
            chosen = oldest
        return chosen, [row for row in rows if row.bucket == chosen]

    def remove(self, rows: Iterable[PromptRow]) -> None:
        """Forgets rows that have been handed on."""
        gone = {question.number for row in rows for question in row.questions}
        is_oldest = self._waiting[0].number in gone
        self._passed_over = 0 if is_oldest else self._passed_over + 1
        self._waiting = [q for q in self._waiting if q.number not in gone]

    def _next(self) -> tuple[int, Request, int] | None:
        if self._submitted:
            return self._submitted.popleft()
        while self._sources:
            following = next(self._sources[0], None)
            if following is not None:
                return next(self._numbers), *following
            self._sources.popleft()
        return None
