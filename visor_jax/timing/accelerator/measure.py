"""Compiled programs and their times: compilation apart, medians after a warm-up."""

import concurrent.futures
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Timed runs, at least, and how long they take together, at most, beyond these.
REPEATS = 5
LONGEST_S = 1.0
_MOST_REPEATS = 30


class Deadline:
    """When a part's time is up; it stops by itself before a row that may not fit."""

    def __init__(self, seconds: float) -> None:
        """Starts the clock."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self, needed: float = 0.0) -> None:
        """Raises `TimeIsUp` unless so many seconds are left."""
        if self.left < needed:
            raise TimeIsUp(f"{self.left:.0f} s were left")


class TimeIsUp(Exception):
    """A part has to end; what it has measured stands."""


class Unavailable(Exception):
    """What a part needs is not on this machine."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program. seconds: of lowering and compiling it, others beside it."""

    run: jax.stages.Compiled
    seconds: float

    @property
    def temp_bytes(self) -> int | None:
        """Bytes beside arguments and results, None where the compiler does not say."""
        memory = self.run.memory_analysis()
        return None if memory is None else memory.temp_size_in_bytes


@dataclasses.dataclass(frozen=True)
class Job:
    """A function to be compiled for these arguments (arrays or abstract ones)."""

    function: Callable[..., Any]
    arguments: tuple
    donate: tuple[int, ...] = ()


def compile_all(
    jobs: Mapping[Any, Job], deadline: Deadline
) -> dict[Any, Program | Exception]:
    """Returns the programs of all jobs, compiled side by side on the host's cores.

    Where one cannot be compiled its exception stands for it.
    """
    deadline.check()
    workers = min(8, max(1, (os.cpu_count() or 1) // 2), max(1, len(jobs)))
    found: dict[Any, Program | Exception] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = {name: pool.submit(_compiled, job) for name, job in jobs.items()}
        for name, future in futures.items():
            try:
                found[name] = future.result()
            except Exception as error:
                # Whatever a compiler raises.
                found[name] = error
    return found


def _compiled(job: Job) -> Program:
    began = time.perf_counter()
    jitted = jax.jit(job.function, donate_argnums=job.donate)
    program = jitted.lower(*job.arguments).compile()
    return Program(program, time.perf_counter() - began)


def times_of(
    run: Callable[[], Any], deadline: Deadline, *, each: int = 1
) -> dict[str, float]:
    """Returns {"ms", "spread", "repeats"} of `run`, which must wait for its result.

    After one run that is not counted. each: what is done in one run; times are of one
    of them.
    """
    run()
    seconds: list[float] = []
    while len(seconds) < REPEATS or (
        sum(seconds) < LONGEST_S and len(seconds) < _MOST_REPEATS
    ):
        deadline.check()
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return {
        "ms": 1e3 * statistics.median(seconds) / each,
        "spread": 1e3 * (max(seconds) - min(seconds)) / each,
        "repeats": len(seconds),
    }


def program_times(
    program: Program, *arguments: Any, deadline: Deadline, each: int = 1
) -> dict[str, float]:
    """Returns the times of a program on these arguments, and its compile seconds."""

    def run() -> None:
        jax.block_until_ready(program.run(*arguments))

    times = times_of(run, deadline, each=each)
    return times | {"compile_s": program.seconds}


def attempted(row: dict[str, Any], measured: Callable[[], dict[str, Any]]) -> Any:
    """Returns the row with what was measured, or with why that failed on the device."""
    try:
        return row | measured()
    except jax.errors.JaxRuntimeError as error:
        # Most often there is too little memory.
        return row | {"failed": failure(error)}


def failure(error: Exception) -> str:
    """Returns an exception in one short line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
