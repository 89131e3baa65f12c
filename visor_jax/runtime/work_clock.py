"""Seconds of work: a clock that stands still while programs are compiled.

A program is compiled once, for whoever happens to ask first. What an answer takes is
what it would take the next time.
"""

import contextlib
import time
from collections.abc import Callable, Iterator


class WorkClock:
    """Counts seconds from its making on, but for those that are left out."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts at 0. clock: gives seconds."""
        self._clock, self._began = clock, clock()
        self._left_out, self._depth = 0.0, 0

    def seconds(self) -> float:
        """Returns the seconds that were counted so far."""
        return self._clock() - self._began - self._left_out

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leaves out what happens in the context; contexts may hold others."""
        began, self._depth = self._clock(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._left_out += self._clock() - began
