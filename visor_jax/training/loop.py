"""The training loop: one ordered list of what happens after each step.

step -> log -> checkpoint -> stop? The order matters: a checkpoint remembers how far
metrics.jsonl had got, so a line must be written before the checkpoint that follows it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.training.budget_sampling import BudgetSchedule
from visor_jax.training.interruption import Interruption
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.progress import Progress
from visor_jax.training.state import BudgetSums, TrainState
from visor_jax.training.universal_step import summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Steps of the run and how often it logs and saves (in steps)."""

    steps: int
    log_every: int = 50
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        wrong = {k: v for k, v in dataclasses.asdict(self).items() if v < 1}
        if wrong:
            raise ValueError(f"LoopSettings needs values of at least 1: {wrong}.")


@dataclasses.dataclass(kw_only=True)
class RunFiles:
    """Where a run leaves what it finds.

    metadata: goes into every checkpoint, beside what the loop adds.
    elapsed_before: seconds that earlier starts of the same run took.
    """

    writer: MetricWriter
    checkpoints: CheckpointManager
    metadata: dict[str, Any]
    elapsed_before: float = 0.0


def run(
    state: TrainState,
    batches: Iterator[Any],
    step: Callable[[TrainState, Any], TrainState],
    *,
    put: Callable[[Any], Any],
    settings: LoopSettings,
    schedule: BudgetSchedule,
    learning_rate: Callable[[int], Any],
    files: RunFiles,
    interruption: Interruption,
) -> tuple[TrainState, int]:
    """Trains until the last step or until asked to stop.

    Args:
      batches: grain iterator, standing at the state's step.
      step: compiled step; donates the state.
      put: places a host batch on the devices.
      learning_rate: of a step, for the log.

    Returns:
      The final state and the number of steps done; fewer than asked for if
      `interruption` was requested. Either way the last step is saved.
    """
    started, done = time.monotonic(), int(state.step)
    names, waited = schedule.budgets.names, 0.0
    with Progress(settings.steps, start=done) as progress:
        while done < settings.steps and not interruption.requested:
            asked = time.monotonic()
            batch = put(next(batches))
            waited += time.monotonic() - asked
            state = step(state, batch)
            done += 1
            if done % settings.log_every == 0 or done == settings.steps:
                values = summary(state.sums, names)
                values["learning_rate"] = float(learning_rate(done - 1))
                files.writer.write(done, values)
                files.writer.write_timing(
                    done,
                    {"steps_per_s": progress.rate or 0.0, "data_wait_s": waited},
                )
                state = state.replace(sums=BudgetSums.zeros(len(names)))
                progress.update(done, loss=values["loss"], accuracy=values["accuracy"])
                waited = 0.0
            last = done == settings.steps or interruption.requested
            elapsed = files.elapsed_before + time.monotonic() - started
            save(done, state, batches, files, elapsed=elapsed, force=last)
    files.checkpoints.wait()
    return state, done


def save(
    step: int,
    state: TrainState,
    batches: Iterator[Any],
    files: RunFiles,
    *,
    elapsed: float,
    force: bool,
) -> None:
    """Saves the run if a checkpoint is due or forced."""
    if not (force or files.checkpoints.should_save(step)):
        return
    files.checkpoints.save(
        step,
        params=state.params,
        optimizer=state.all_but_params(),
        data_iterator=batches,
        metadata={
            **files.metadata,
            "metrics_offset": files.writer.position(),
            "wall_clock_s": round(elapsed, 1),
        },
        force=force,
    )
