"""Times how fast a run's batches are read, with different numbers of workers.

    python -m visor_jax.timing.loader --config=configs/universal.py:llava_ov_0p5b \
        --config.data.path=DIR --config.data.processor=DIR --readers=0,1,2 [--step]

With --step the training step is compiled and timed as well, on the same batches, and
the table says what share of it the loader takes: above 100 % the run waits for data.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()
    flags.DEFINE_integer("batches", 20, "Timed batches.")
    flags.DEFINE_list("readers", ["0", "1", "2"], "Numbers of workers.")
    flags.DEFINE_bool("step", False, "Time the training step, too.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from visor_jax.batch import Batch
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.settings import CONVERSATIONS
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.machine import machine_description
from visor_jax.settings.read import read_settings
from visor_jax.settings.run_settings import UniversalSettings
from visor_jax.tasks.trained_parameters import check_groups
from visor_jax.tasks.training_data import open_conversations
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training import initial_state
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.universal_step import make_universal_step
from visor_jax.training.optimizer import make_optimizer
from visor_jax.training.step_programs import StepPrograms


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was timed: seconds until the first batch and per batch, samples a second."""

    first_s: float
    batch_s: float
    samples_per_s: float


def time_reading(data: RunData, workers: int, batches: int) -> Reading:
    """Returns how fast so many batches of the run are read.

    Args:
      workers: processes that read; 0 for threads of this one.

    Raises:
      ValueError: if the run has too few batches.
    """
    reading = data.settings.reading(workers=workers)
    # What was read ahead while the slowest reader started is not timed.
    ahead = reading.prefetch * max(workers, 1) + 1
    timed = range(ahead, ahead + batches)
    if timed.stop > len(data.plan):
        raise ValueError(
            f"Timing {batches} batches takes a run of {timed.stop}, and this one has "
            f"{len(data.plan)}: give fewer --batches or a longer run."
        )
    iterator = data.batches(reading)
    began = time.perf_counter()
    next(iterator)
    first = time.perf_counter()
    _take(iterator, ahead - 1)
    ready = time.perf_counter()
    _take(iterator, batches)
    seconds = time.perf_counter() - ready
    iterator.close()
    samples = sum(len(row) for number in timed for row in data.plan.rows(number))
    return Reading(first - began, seconds / batches, samples / seconds)


def _take(batches: Iterator[Batch], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def seconds_per_step(run: UniversalSettings, batches: Sequence[Batch]) -> float:
    """Returns the mean seconds of a training step over the batches, compiled before."""
    model, frozen = as_trained(run.model), run.optimizer.frozen
    optimizer = make_optimizer(run.optimizer, run.loop.steps)
    state = initial_state.fresh_state(
        model,
        optimizer,
        frozen,
        batches[0],
        seed=run.seed,
        num_budgets=len(run.budgets),
    )
    state = LayerStacks.of(model, run.optimizer, state.params).stack(state)
    step = StepPrograms(
        make_universal_step(model, optimizer, run.schedule, run.objective, frozen),
        out_shardings=None,
        record=lambda step, seconds: None,
    )
    for batch in batches:
        step.prepare(state, batch)
    began = time.perf_counter()
    for batch in batches:
        state = step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / len(batches)


def main(arguments: list[str]) -> None:
    """Prints a line for every number of workers."""
    del arguments
    options = flags.FLAGS
    keep_freed_memory()
    count = options.batches
    with command_line.user_errors():
        run = read_settings(config_flag.config_of(options))
        if run.task != "universal" or run.data.kind != CONVERSATIONS:
            raise ValueError("Only training on converted data can be timed here.")
        if count < 1:
            raise ValueError(f"--batches={count} must be at least 1.")
        if options.step:
            check_groups(run)
        readers = [int(number) for number in options.readers]
        with tempfile.TemporaryDirectory() as temporary:
            data = open_conversations(
                run,
                cache=Path(run.data.cache or temporary),
                interruption=Interruption(),
            )
    size = run.data.batch_size
    print(f"{machine_description()}, {size} rows a batch, mean of {count} batches")
    step = None
    if options.step:
        step = seconds_per_step(run, list(itertools.islice(data.batches(), count)))
        print(f"{1e3 * step:.0f} ms a training step")
    print("workers  first s  ms/batch  samples/s   share")
    for workers in readers:
        with command_line.user_errors():
            found = time_reading(data, workers, count)
        share = "" if step is None else f"{100 * found.batch_s / step:.0f} %"
        print(
            f"{workers:7d} {found.first_s:8.1f} {1e3 * found.batch_s:9.1f} "
            f"{found.samples_per_s:10.1f} {share:>7}",
            flush=True,
        )


if __name__ == "__main__":
    command_line.run(main)
