"""How far a budget moves what a network says next, against everything on.

The Kullback-Leibler divergence of the next token's distribution behind each prompt, in
nats, with all SELF layers on first: mean over prompts. One program serves all budgets.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.sample import Sample
from visor_jax.inference.generation.finite import why_not_finite
from visor_jax.inference.loading.network import Network
from visor_jax.models.vlm import VLM, begin_batch, text_tags
from visor_jax.ops.masks import last_valid
from visor_jax.sharding.programs import mesh_jit

Params = Any


class Divergence:
    """Measures budgets of a network on prompts that stay in memory."""

    def __init__(
        self, network: Network, samples: Sequence[Sample], *, batch_size: int = 8
    ) -> None:
        """Takes the prompts, and reads them with everything on.

        Raises:
          ValueError: for no prompt, or one that fits into no bucket.
        """
        if not samples:
            raise ValueError("There are no prompts to measure on.")
        self._network = network
        self._groups = [
            (jax.device_put(group.batch), len(group.rows))
            for group in network.processor.buckets.batches(samples, batch_size)
        ]
        full = Budget.all(network.config.plan)
        self._reference = [self._log_probs(batch, full) for batch, _ in self._groups]

    def __call__(self, budgets: Sequence[Budget]) -> list[float]:
        """Returns the divergence of each budget.

        Raises:
          ValueError: where the network's logits are not finite.
        """
        found = [float(np.mean(np.concatenate([*self._of(b)]))) for b in budgets]
        for budget, divergence in zip(budgets, found, strict=True):
            if not math.isfinite(divergence):
                why = why_not_finite(self._network.params)
                raise ValueError(f"Budget {budget.name!r} cannot be measured. {why}")
        return found

    def _of(self, budget: Budget) -> Iterator[Float[np.ndarray, "rows"]]:
        for (batch, rows), reference in zip(self._groups, self._reference, strict=True):
            found = _divergence(reference, self._log_probs(batch, budget))
            yield np.asarray(found, np.float64)[:rows]

    def _log_probs(self, batch: Batch, budget: Budget) -> Float[Array, "B W"]:
        network = self._network
        # Always levels, whatever the budget: one program.
        levels = jnp.asarray(budget.levels(network.config.plan))
        return _log_probs(network.params, batch, levels, model=network.vlm)


@mesh_jit(static_argnames=("model",))
def _log_probs(
    params: Params, batch: Batch, levels: Int[Array, "S"], *, model: VLM
) -> Float[Array, "B W"]:
    """Returns those of the token that follows each prompt."""
    last = last_valid(text_tags(batch))[:, None]

    def run(module: VLM) -> Array:
        done, _ = module.run(begin_batch(module, batch), levels)
        return module.logits(done.text, last)[:, 0]

    return jax.nn.log_softmax(model.apply({"params": params}, method=run))


@mesh_jit()
def _divergence(
    reference: Float[Array, "B W"], found: Float[Array, "B W"]
) -> Float[Array, "B"]:
    return jnp.sum(jnp.exp(reference) * (reference - found), axis=-1)
