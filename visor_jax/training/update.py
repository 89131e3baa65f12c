"""The end of every training step: from gradients to the next state.

What trains moves, what is frozen stays, what happened is summed up. A step that makes
no sense changes nothing but its counters (`training.skipped_steps`).
"""

from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import Array, Float

from visor_jax.training.optimizer import merge, split_frozen
from visor_jax.training.skipped_steps import skip_if_bad
from visor_jax.training.state import TrainState

Tree = Any


def update(
    state: TrainState,
    grads: Tree,
    optimizer: optax.GradientTransformation,
    *,
    frozen: tuple[str, ...],
    loss: Float[Array, ""],
    sums: Callable[..., Tree],
    skip_norm: float | None = None,
) -> TrainState:
    """Returns the state after a step. Pure: part of the step's program.

    Args:
      state: before the step.
      grads: of the trainable parameters alone, as `split_frozen` gives them.
      loss: of the step; if it is not finite, the step is skipped.
      sums: called with `grad_norm`, the global norm before any clipping; returns the
        state's sums after this step.
      skip_norm: as for `skip_if_bad`.
    """
    trainable, fixed = split_frozen(state.params, frozen)
    updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
    trainable = optax.apply_updates(trainable, updates)
    grad_norm = optax.tree.norm(grads)
    updated = state.replace(
        step=state.step + 1,
        params=merge(trainable, fixed),
        opt_state=opt_state,
        sums=sums(grad_norm=grad_norm),
    )
    return skip_if_bad(
        state, updated, loss=loss, grad_norm=grad_norm, skip_norm=skip_norm
    )
