"""Shows how far a long stage is and when it will end.

On a terminal a bar on stderr; elsewhere (log files of a cluster) a plain line from time
to time:

    step 200/2400  loss 1.234  12.3 steps/s  eta 3:21
"""

import collections
import sys
import time
from collections.abc import Callable
from typing import IO

import jax
import rich.console
import rich.progress

# The rate is that of the last updates, so that compiling does not spoil the ETA.
_RATE_WINDOW_SECONDS = 60.0
_RATE_WINDOW_UPDATES = 200


class Progress:
    """Context manager around one stage; `update` is called as often as one likes.

    Only process 0 prints.
    """

    def __init__(
        self,
        total: int,
        *,
        description: str = "step",
        unit: str = "steps",
        start: int = 0,
        period: float = 10.0,
        stream: IO[str] | None = None,
        enabled: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display.

        Args:
          total: units of work in the whole stage.
          description: what is counted, first on the line ("step", "drawing pages").
          unit: plural name of what is counted, for the rate.
          start: units that were done before (a resumed run).
          period: seconds between two plain lines.
          stream: where to print, stderr if None.
          enabled: whether to print, by default only on process 0.
          clock: gives seconds.
        """
        self._total, self._start, self._done = total, start, start
        self._description, self._unit = description, unit
        self._period, self._clock = period, clock
        self._stream = stream if stream is not None else sys.stderr
        self._enabled = jax.process_index() == 0 if enabled is None else enabled
        self._marks: collections.deque[tuple[float, int]] = collections.deque(
            maxlen=_RATE_WINDOW_UPDATES
        )
        self._printed_at = clock()
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        self._marks.append((self._clock(), self._done))
        self._printed_at = self._clock()
        if self._enabled and self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._start, facts=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done: int, **values: float) -> None:
        """Shows that `done` units are done in all, with `values` beside them.

        Args:
          done: units done, `start` included.
          **values: numbers to show ("loss", ...), not more than a few.
        """
        self._done = done
        now = self._clock()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_WINDOW_SECONDS:
            self._marks.popleft()
        if not self._enabled:
            return
        if self._bar is not None:
            facts = "  ".join(self._facts(values))
            self._bar.update(self._task, completed=done, facts=facts)
        elif now - self._printed_at >= self._period or done >= self._total:
            self._printed_at = now
            counted = f"{self._description} {done}/{self._total}"
            self._print("  ".join([counted, *self._facts(values)]))

    def log(self, message: str) -> None:
        """Prints a line of its own without disturbing the bar."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            self._print(message)

    @property
    def rate(self) -> float | None:
        """Units per second of late, None before there is anything to go by."""
        (before, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - before) if now > before else None

    def _facts(self, values: dict[str, float]) -> list[str]:
        facts = [f"{name} {float(value):.4g}" for name, value in values.items()]
        if self.rate:
            left = max(0, self._total - self._done) / self.rate
            facts += [f"{self.rate:.3g} {self._unit}/s", f"eta {_clock_time(left)}"]
        return facts

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _make_bar(stream: IO[str]) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[facts]}", markup=False),
        console=rich.console.Console(file=stream),
        # Results that go to a file or a pipe must get there.
        redirect_stdout=sys.stdout.isatty(),
    )


def _clock_time(seconds: float) -> str:
    """Returns "3:21", or "2:03:21" from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"
