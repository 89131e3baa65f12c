"""A loss as in training, and its gradient through both forms of gates."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from visor_jax.batch import Batch
from visor_jax.layer_plan import StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM


def loss(params: Any, batch: Batch, gates: Any, config: VLMConfig) -> jax.Array:
    """Returns the mean cross-entropy under the loss mask."""
    logits = VLM(config).apply(params, batch, gates).logits
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), batch.targets[..., None], axis=-1
    )[..., 0]
    return -jnp.sum(chosen * batch.loss_mask) / jnp.sum(batch.loss_mask)


@functools.partial(jax.jit, static_argnames=("gates", "config"))
def gradient_static(
    params: Any, batch: Batch, *, gates: tuple[StaticGate, ...], config: VLMConfig
) -> Any:
    """Returns loss and gradient of the program made for these gates."""
    return jax.value_and_grad(loss)(params, batch, gates, config)


@functools.partial(jax.jit, static_argnames="config")
def gradient_traced(
    params: Any, batch: Batch, gates: jax.Array, *, config: VLMConfig
) -> Any:
    """Returns loss and gradient of the program that serves every budget."""
    return jax.value_and_grad(loss)(params, batch, gates, config)
