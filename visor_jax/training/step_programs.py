"""The training step, compiled once for every shape of batch that comes."""

from collections.abc import Callable
from typing import Any

import jax

from visor_jax.batch import Batch
from visor_jax.runtime.compilation import logged_compile
from visor_jax.training.state import TrainState

Step = Callable[[TrainState, Any], TrainState]


class StepPrograms:
    """A callable (state, batch) -> state that donates the state.

    A batch of a new shape is compiled for when it comes, or before by `prepare`; the
    log says for which shape, and how long it took.
    """

    def __init__(
        self, step: Step, *, out_shardings: Any, record: Callable[[int, float], None]
    ) -> None:
        """Compiles nothing yet.

        Args:
          step: pure function.
          out_shardings: of the state.
          record: gets the steps done and the seconds of every compilation.
        """
        self._jitted = jax.jit(step, donate_argnums=0, out_shardings=out_shardings)
        self._record = record
        self._programs: dict[Any, Step] = {}

    def prepare(self, state: TrainState, batch: Any) -> Step:
        """Returns the program for batches of this shape, compiled if there is none."""
        leaves, tree = jax.tree.flatten(batch)
        shapes = tree, tuple((x.shape, x.dtype) for x in leaves)
        if shapes not in self._programs:
            self._programs[shapes] = logged_compile(
                _name(batch),
                self._jitted,
                state,
                batch,
                record=lambda _, seconds: self._record(int(state.step), seconds),
            )
        return self._programs[shapes]

    def __call__(self, state: TrainState, batch: Any) -> TrainState:
        """Returns the state after a step."""
        return self.prepare(state, batch)(state, batch)


def _name(batch: Any) -> str:
    if not isinstance(batch, Batch):
        return "the training step"
    rows, crops = batch.pixels.shape[:2]
    return (
        f"the training step for {rows} rows of {crops} crops, "
        f"{batch.image_positions.shape[1]} image and {batch.tokens.shape[1]} text "
        "tokens"
    )
