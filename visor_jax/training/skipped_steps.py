"""Steps whose loss or gradients make no sense: skipped, counted, and named in a file.

On the device a bad step leaves the state as it was and only advances its counters. On
the host the run writes down which rows were in it, and stops when there were too many:

    skipped_steps.json   {"count": 2, "steps": [{"step": 37, "rows": [576, 592]}, ...]}

Step 37 is the 37th; its rows are numbers 576..591 in the order of the run's data, which
depends on the seed and the data alone.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.runtime import atomic_write
from visor_jax.training.state import SkippedSteps, TrainState

SKIPPED = "skipped_steps.json"


class TooManySkippedSteps(Exception):
    """More steps were skipped than the run allows; the message says where to look."""


def skip_if_bad(
    state: TrainState,
    updated: TrainState,
    *,
    loss: Float[Array, ""],
    grad_norm: Float[Array, ""],
    skip_norm: float | None = None,
) -> TrainState:
    """Returns the state after a step: `updated`, or `state` with one more step counted.

    A step is bad if the loss or a gradient is not finite, or if the gradients' global
    norm is above `skip_norm`. Pure: part of the step's program.

    Args:
      state: before the step.
      updated: after it, if it is taken.
      grad_norm: global norm, before any clipping; not finite if one gradient is not.
    """
    is_bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
    if skip_norm is not None:
        is_bad |= grad_norm > skip_norm
    chosen = jax.tree.map(lambda old, new: jnp.where(is_bad, old, new), state, updated)
    return chosen.replace(
        step=updated.step, skipped=state.skipped.add(updated.step, is_bad)
    )


class SkippedStepsFile:
    """Writes down the skipped steps of one run, and knows how many are too many."""

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        batch_size: int,
        limit: int,
        enabled: bool = True,
    ) -> None:
        """Writes nothing yet: the file appears with the first skipped step.

        Args:
          batch_size: rows of a global batch.
          limit: skipped steps of a run that are still no reason to stop.
          enabled: False on every process but the first: then nothing is written.
        """
        self._file = Path(workdir) / SKIPPED
        self._batch_size, self._limit, self._enabled = batch_size, limit, enabled
        self._written = 0

    def note(self, skipped: SkippedSteps) -> int:
        """Returns how many steps were skipped so far, after writing down new ones."""
        count, last = int(skipped.count), jax.device_get(skipped.last)
        if count != self._written and self._enabled:
            steps = {int(step) for step in last if step} | self._steps_on_file()
            self._write(count, sorted(steps))
        self._written = count
        return count

    def too_many(self) -> TooManySkippedSteps | None:
        """Returns the reason to stop, if what was noted last is one."""
        if self._written <= self._limit:
            return None
        return TooManySkippedSteps(
            f"{self._written} steps were skipped because their loss or gradients were "
            "not finite or above optimizer.skip_norm, and loop.max_skipped_steps is "
            f"{self._limit}. {self._file} names their rows: look at them; if they are "
            "sound, begin again with a lower learning rate, or go on with a higher "
            "--config.loop.max_skipped_steps."
        )

    def _steps_on_file(self) -> set[int]:
        if not self._file.exists():
            return set()
        return {each["step"] for each in json.loads(self._file.read_text())["steps"]}

    def _write(self, count: int, steps: list[int]) -> None:
        size = self._batch_size
        rows = [{"step": s, "rows": [(s - 1) * size, s * size]} for s in steps]
        content = json.dumps({"count": count, "steps": rows}) + "\n"
        atomic_write.write_text(self._file, content)
