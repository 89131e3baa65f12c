"""Requests on their way in: prepared, packed into rows, sorted by bucket."""

import bisect
import collections
import dataclasses
import itertools
import time
from collections.abc import Container, Iterable, Iterator
from typing import Any

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.request import Request
from visor_jax.inference import checked_arguments as checked
from visor_jax.inference.answers import Listener
from visor_jax.inference.engine.packed_prompts import PreparedRequest, PromptRow, pack
from visor_jax.inference.engine.preparation import Preparation
from visor_jax.inference.engine.program_shapes import PENDING
from visor_jax.runtime.arguments import finite_number
from visor_jax.runtime.work_clock import WorkClock

# How often rows of another bucket may go before the oldest request.
_PATIENCE = 4
# What a source gives at its end; None may be among what it holds.
_NO_MORE: Any = object()


@dataclasses.dataclass(frozen=True, eq=False)
class RequestSource:
    """Where requests come from one by one, and the most tokens of their answers."""

    requests: Iterator[Request]
    limit: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueuedRequest:
    """A request that has been taken in, to be prepared.

    source: None if it was submitted. began: by the clock of the queue; None before it
    is taken in. due: by `time.monotonic`, when it is to be answered at the latest.
    listener: hears what is written. error: why it cannot be answered, or None.
    """

    number: int
    request: Request
    limit: int
    source: RequestSource | None
    began: float | None = None
    due: float | None = None
    listener: Listener | None = None
    error: str | None = None


class RequestQueue:
    """Takes requests from those submitted, then from sources, as room permits."""

    def __init__(self, preparation: Preparation, clock: WorkClock) -> None:
        """Starts without requests. clock: says when a request was taken in."""
        self._preparation, self._clock = preparation, clock
        self._buckets, self._shapes = preparation.processor.buckets, preparation.shapes
        self._numbers = itertools.count()
        self._submitted: collections.deque[QueuedRequest] = collections.deque()
        self._sources: collections.deque[RequestSource] = collections.deque()
        self._prepared: list[PreparedRequest] = []
        self._passed_over = 0

    @property
    def is_empty(self) -> bool:
        """Whether no request is left that has not been handed on."""
        return not (self._submitted or self._sources or self._prepared)

    @property
    def submitted(self) -> Iterable[QueuedRequest]:
        """The requests that were submitted and not taken in yet."""
        return tuple(self._submitted)

    @property
    def waiting(self) -> int:
        """How many requests wait, those that sources still hold left out."""
        return len(self._submitted) + len(self._prepared)

    def submit(
        self,
        request: Request,
        limit: int,
        *,
        seconds: float | None = None,
        listener: Listener | None = None,
    ) -> int:
        """Returns the request's number.

        limit: most tokens of its answer. seconds: from now on that it may take.

        Raises:
          ValueError: for seconds that are no finite number.
        """
        due = None
        if seconds is not None:
            due = time.monotonic() + finite_number(seconds, "seconds")
        queued = QueuedRequest(
            number=next(self._numbers),
            request=request,
            limit=limit,
            source=None,
            due=due,
            listener=listener,
        )
        self._submitted.append(queued)
        return queued.number

    def draw_from(self, requests: Iterable[Request], limit: int) -> RequestSource:
        """Takes requests from the iterable too, when none is submitted."""
        source = RequestSource(iter(requests), limit)
        self._sources.append(source)
        return source

    def close(self, source: RequestSource) -> None:
        """Takes no more from a source."""
        if source in self._sources:
            self._sources.remove(source)

    def drop(self, numbers: Container[int]) -> None:
        """Forgets requests with these numbers."""
        kept = [each for each in self._submitted if each.number not in numbers]
        self._submitted = collections.deque(kept)
        self._prepared = [each for each in self._prepared if each.number not in numbers]

    def clear(self) -> None:
        """Forgets everything but the count."""
        self._submitted.clear()
        self._sources.clear()
        self._prepared.clear()

    def take_in(self) -> list[QueuedRequest]:
        """Prepares requests until enough of them wait, by number or bytes of pixels.

        A request that cannot be read is only that: the others go on.
        """
        taken: list[QueuedRequest] = []
        # On the host as much as rows that have been read may take on the device.
        most = self._shapes.engine_config.pending
        most_bytes = self._shapes.share(PENDING)
        pixels = sum(request.num_bytes for request in self._prepared)
        # Errors are handed on as they come, too, not after the last of them.
        while max(len(taken), len(self._prepared)) < most:
            following = self._next() if pixels < most_bytes else None
            if following is None:
                break
            try:
                checked.request_of(following.request)
                what = (following.number, following.request, following.limit)
                request = self._preparation.prepare(*what)
            except (ValueError, OSError) as error:
                reason = str(error) or type(error).__name__
                following = dataclasses.replace(following, error=reason)
            else:
                self._prepared.append(request)
                pixels += request.num_bytes
            taken.append(following)
        return taken

    def look_again(self, before: PreparedRequest, budget: Budget) -> None:
        """Lets a request wait for a look at all crops, in the order of asking."""
        again = self._preparation.look_again(before, budget)
        # Not before those who have waited longer: their turn would never come.
        bisect.insort(self._prepared, again, key=lambda request: request.number)

    def rows(self) -> tuple[Bucket, list[PromptRow]] | None:
        """Returns prepared rows of one bucket, oldest first; None if there are none.

        Of the bucket that has most rows, but the oldest row's bucket has its turn, too.
        """
        if not self._prepared:
            return None
        per_row = self._shapes.requests_per_row
        rows = pack(self._prepared, self._buckets, per_row=per_row)
        counts = collections.Counter(row.bucket for row in rows)
        oldest, chosen = rows[0].bucket, max(counts, key=lambda bucket: counts[bucket])
        if self._passed_over >= _PATIENCE or counts[chosen] == counts[oldest]:
            chosen = oldest
        return chosen, [row for row in rows if row.bucket == chosen]

    def remove(self, rows: Iterable[PromptRow]) -> None:
        """Forgets rows that have been handed on."""
        gone = {request.number for row in rows for request in row.requests}
        is_oldest = self._prepared[0].number in gone
        self._passed_over = 0 if is_oldest else self._passed_over + 1
        self._prepared = [each for each in self._prepared if each.number not in gone]

    def _next(self) -> QueuedRequest | None:
        if self._submitted:
            queued = self._submitted.popleft()
            return dataclasses.replace(queued, began=self._clock.seconds())
        while self._sources:
            source = self._sources[0]
            request = next(source.requests, _NO_MORE)
            if request is not _NO_MORE:
                return QueuedRequest(
                    number=next(self._numbers),
                    request=request,
                    limit=source.limit,
                    source=source,
                    began=self._clock.seconds(),
                )
            self._sources.popleft()
        return None
