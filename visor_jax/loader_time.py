"""Times how fast a run's batches are read, with different numbers of workers.

    python -m visor_jax.loader_time --config=configs/universal.py:llava_ov_0p5b \
        --config.data.path=DIR --config.data.processor=DIR --readers=0,1,2 [--step]

With --step the training step is compiled and timed as well, on the same batches, and
the table says what share of it the loader takes: above 100 % the run waits for data.
"""

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from visor_jax import command_line, settings
from visor_jax.batch import Batch
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.settings import CONVERSATIONS
from visor_jax.models.vlm import VLM
from visor_jax.settings import UniversalSettings
from visor_jax.tasks.conversations import open_conversations
from visor_jax.training import stages
from visor_jax.training.host_memory import keep_freed_memory
from visor_jax.training.interruption import Interruption
from visor_jax.training.optimizer import make_optimizer
from visor_jax.training.run_record import machine_description
from visor_jax.training.step_programs import StepPrograms
from visor_jax.training.universal_step import make_universal_step


def seconds_per_batch(data: RunData, workers: int, batches: int) -> tuple[float, float]:
    """Returns the seconds until the first batch, and per batch after it.

    Args:
      workers: processes that read; 0 for threads of this one.
      batches: that are timed after the first.
    """
    reading = data.settings.reading(workers=workers)
    iterator = data.batches(reading)
    began = time.perf_counter()
    next(iterator)
    first = time.perf_counter()
    # Nobody computes meanwhile, so nothing is read ahead: this is the readers' rate.
    for _ in itertools.islice(iterator, batches):
        pass
    ended = time.perf_counter()
    iterator.close()
    return first - began, (ended - first) / batches


def seconds_per_step(run: UniversalSettings, batches: Sequence[Batch]) -> float:
    """Returns the mean seconds of a training step over the batches, compiled before."""
    model, frozen = VLM(run.model), run.optimizer.frozen
    optimizer = make_optimizer(run.optimizer, run.loop.steps)
    state = stages.fresh_state(
        model,
        optimizer,
        frozen,
        batches[0],
        seed=run.seed,
        num_budgets=len(run.budgets),
    )
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


def _main(_: list[str]) -> None:
    keep_freed_memory()
    count = _BATCHES.value
    with command_line.user_errors():
        if _CONFIG.value is None:
            raise ValueError("--config=FILE is needed, as for training.")
        run = settings.read(_CONFIG.value)
        if run.task != "universal" or run.data.kind != CONVERSATIONS:
            raise ValueError("Only training on converted data can be timed here.")
        if not 1 <= count < run.loop.steps:
            raise ValueError(f"--batches={count} is not in 1..{run.loop.steps - 1}.")
        readers = [int(number) for number in _READERS.value]
        with tempfile.TemporaryDirectory() as temporary:
            data = open_conversations(
                run,
                cache=Path(run.data.cache or temporary),
                interruption=Interruption(),
            )
    size = run.data.batch_size
    print(f"{machine_description()}, {size} rows a batch, mean of {count} batches")
    step = None
    if _STEP.value:
        step = seconds_per_step(run, list(itertools.islice(data.batches(), count)))
        print(f"{1e3 * step:.0f} ms a training step")
    samples = sum(len(row) for i in range(1, count + 1) for row in data.plan.rows(i))
    print(
        f"{'workers':>7} {'first s':>8} {'ms/batch':>9} {'samples/s':>10} {'share':>7}"
    )
    for workers in readers:
        first, seconds = seconds_per_batch(data, workers, count)
        share = "" if step is None else f"{100 * seconds / step:.0f} %"
        rate = samples / (seconds * count)
        print(
            f"{workers:7d} {first:8.1f} {1e3 * seconds:9.1f} {rate:10.1f} {share:>7}",
            flush=True,
        )


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "Configuration file, as for training."
    )
    _BATCHES = flags.DEFINE_integer("batches", 20, "Timed batches.")
    _READERS = flags.DEFINE_list("readers", ["0", "1", "2"], "Numbers of workers.")
    _STEP = flags.DEFINE_bool("step", False, "Time the training step, too.")
    command_line.run(_main)
