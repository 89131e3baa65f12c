"""The training loop: one ordered list of what happens after each step.

step -> log -> checkpoint -> stop? The order matters: a checkpoint remembers how far
metrics.jsonl had got, so a line must be written before the checkpoint that follows it.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.progress import Progress
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.skipped_steps import SkippedStepsFile
from visor_jax.training.state import TrainState

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Steps of the run and how often it logs and saves (in steps).

    max_skipped_steps: bad steps that are skipped before the run stops, see
      `skipped_steps`.
    """

    steps: int
    log_every: int = 50
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    max_skipped_steps: int = 20

    def __post_init__(self) -> None:
        least = {"max_skipped_steps": 0}
        values = dataclasses.asdict(self).items()
        wrong = {k: v for k, v in values if v < least.get(k, 1)}
        if wrong:
            raise ValueError(
                "LoopSettings needs values of at least 1 (max_skipped_steps 0): "
                f"{wrong}."
            )


@dataclasses.dataclass(kw_only=True)
class RunFiles:
    """Where a run leaves what it finds, and how long it has been at it.

    skipped: names the steps whose update was not taken.
    metadata: goes into every checkpoint, beside what the loop adds.
    began: of `time.monotonic`, moved back by what earlier starts of the run took.
    upload: brings what was written to where the run lives, if that is not here.
    stored: from the state that steps take to the one that checkpoints hold.
    """

    writer: MetricWriter
    checkpoints: CheckpointManager
    skipped: SkippedStepsFile
    metadata: dict[str, Any]
    began: float
    upload: Callable[[], None] = lambda: None
    stored: Callable[[TrainState], TrainState] = lambda state: state

    def elapsed(self) -> float:
        """Returns the seconds of all starts of this run together."""
        return time.monotonic() - self.began


def resume(
    abstract: TrainState, batches: Iterator[Any], files: RunFiles
) -> TrainState | None:
    """Returns the state of the newest checkpoint, or None if the run is new.

    Sets `batches` to where they stood and drops what was logged since.

    Args:
      abstract: shapes, dtypes and current shardings of the state.

    Raises:
      ValueError: if the checkpoint is damaged or of another network.
    """
    if files.checkpoints.latest_step() is None:
        files.writer.truncate_to(0, step=0)
        return None
    params, rest, metadata = files.checkpoints.restore_training(
        abstract.params, abstract.all_but_params(), batches
    )
    files.writer.truncate_to(metadata["metrics_offset"], step=metadata["step"])
    files.began -= metadata["wall_clock_s"]
    _logger.info("going on from step %d", metadata["step"])
    return TrainState(params=params, **rest)


def run(
    state: TrainState,
    batches: Iterator[Any],
    step: Callable[[TrainState, Any], TrainState],
    *,
    put: Callable[[Any], Any],
    settings: LoopSettings,
    summary: Callable[[Any], dict[str, float]],
    learning_rates: Mapping[str, Callable[[int], Any]],
    files: RunFiles,
    interruption: Interruption,
) -> tuple[TrainState, int]:
    """Trains until the last step or until asked to stop.

    Args:
      batches: grain iterator, standing at the state's step.
      step: compiled step; donates the state.
      put: places a host batch on the devices.
      summary: from the state's sums to what is logged; without "loss" or "accuracy"
        where no step since the last line had any.
      learning_rates: {name in the log: function of the step}.

    Returns:
      The final state and the number of steps done; fewer than asked for if
      `interruption` was requested. Either way the last step is saved.

    Raises:
      TooManySkippedSteps: at a log line, after saving.
      SavingError: if a checkpoint could not be written.
    """
    done, waited = int(state.step), 0.0
    stop, too_many = interruption.agreed(done), None
    with Progress(settings.steps, start=done) as progress:
        while done < settings.steps and not stop:
            asked = time.monotonic()
            batch = put(next(batches))
            waited += time.monotonic() - asked
            state = step(state, batch)
            done += 1
            if done % settings.log_every == 0 or done == settings.steps:
                values = summary(state.sums)
                values |= {k: float(f(done - 1)) for k, f in learning_rates.items()}
                log(done, values, state, progress, files, waited=waited)
                state = state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
                too_many, waited = files.skipped.too_many(), 0.0
            stop = interruption.agreed(done) or too_many is not None
            save(done, state, batches, files, force=stop or done == settings.steps)
    files.checkpoints.wait()
    if too_many is not None:
        raise too_many
    return state, done


def log(
    step: int,
    values: dict[str, float],
    state: TrainState,
    progress: Progress,
    files: RunFiles,
    *,
    waited: float,
) -> None:
    """Writes what happened since the last line, and shows it.

    waited: seconds in which there was no batch to train on.
    """
    values["skipped_steps"] = files.skipped.note(state.skipped)
    files.writer.write(step, values)
    timing = {"steps_per_s": progress.rate or 0.0, "data_wait_s": waited}
    files.writer.write_timing(step, timing)
    shown = {name: values[name] for name in ("loss", "accuracy") if name in values}
    if values["skipped_steps"]:
        shown["skipped_steps"] = values["skipped_steps"]
    progress.update(step, **shown, data_wait_s=waited)


def save(
    step: int,
    state: TrainState,
    batches: Iterator[Any],
    files: RunFiles,
    *,
    force: bool,
) -> None:
    """Saves the run if a checkpoint is due or forced.

    Raises:
      SavingError: if writing an earlier checkpoint failed meanwhile.
      UploadError: if the run lives elsewhere and its files cannot get there.
    """
    files.checkpoints.check()
    if not (force or files.checkpoints.should_save(step)):
        return
    offset = files.writer.position()
    # Before the checkpoint that counts on it: a run never goes on behind its metrics.
    files.writer.flush()
    files.upload()
    stored = files.stored(state)
    files.checkpoints.save(
        step,
        params=stored.params,
        optimizer=stored.all_but_params(),
        data_iterator=batches,
        metadata={
            **files.metadata,
            "metrics_offset": offset,
            "wall_clock_s": round(files.elapsed(), 1),
        },
        force=force,
    )
