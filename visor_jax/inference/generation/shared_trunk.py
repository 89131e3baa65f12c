"""Prompts whose budgets are chosen on the way: read once, whatever is chosen.

    batch -> trunk (layers that all budgets share) -> the policy's logits, on the host
             trunk, rows of one budget -> the layers behind -> decoding

The other way, choosing first and answering then, goes through the tower and the trunk
twice. A cascade, which looks again where an answer is unsure, goes on from the same
trunk, too. The engine does the same as here for rows that come and go.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.inference.generation.prefill import Prefilled, PromptEnds
from visor_jax.inference.generation.prefill_parts import prefill_rest
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.vlm import VLM, run_trunk
from visor_jax.policy.features import policy_features
from visor_jax.policy.network import PolicyConfig, policy_logits
from visor_jax.sharding.programs import mesh_jit

Params = Any


@flax.struct.dataclass
class SharedTrunk:
    """Prompts after the layers that all budgets share, and where each ends."""

    state: DecoderState
    ends: PromptEnds


@mesh_jit(static_argnames=("model", "config"))
def read_trunk(
    params: Params, policy: Params, batch: Batch, *, model: VLM, config: PolicyConfig
) -> tuple[SharedTrunk, Float[Array, "B budgets"]]:
    """Returns prompts after the trunk, and the policy's logits for each.

    Args:
      params, policy: of the network and of its policy.
      batch: one prompt per row.
    """

    def run(module: VLM) -> DecoderState:
        return run_trunk(module, batch, remember=True)

    state = model.apply({"params": params}, method=run)
    logits = policy_logits(config, policy, policy_features(state))
    return SharedTrunk(state, PromptEnds.of(batch)), logits[:, 0]


@mesh_jit(static_argnames=("model",))
def read_trunk_alone(params: Params, batch: Batch, *, model: VLM) -> SharedTrunk:
    """Returns prompts after the trunk, one per row, where no policy is asked."""

    def run(module: VLM) -> DecoderState:
        return run_trunk(module, batch, remember=True)

    return SharedTrunk(
        model.apply({"params": params}, method=run), PromptEnds.of(batch)
    )


def prefill_behind(
    model: VLM,
    params: Params,
    trunk: SharedTrunk,
    rows: Int[np.ndarray, "X"],
    budget: Budget,
    *,
    spare: int = 0,
) -> Prefilled:
    """Returns these rows of the trunk as `prefill` does; a program per number of rows.

    Args:
      rows: of the trunk's; one may stand there more than once.
      spare: how many tokens the cache can take beyond the prompt.

    Raises:
      ValueError: for a budget that is not of the model's plan.
    """
    gates = budget.gates(model.config.plan)
    return _prefill_behind(
        params, trunk, np.asarray(rows, np.int32), model=model, gates=gates, spare=spare
    )


@mesh_jit(static_argnames=("model", "gates", "spare"))
def _prefill_behind(
    params: Params,
    trunk: SharedTrunk,
    rows: Int[Array, "X"],
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
    spare: int,
) -> Prefilled:
    mine = jax.tree.map(lambda x: x[rows], trunk)
    places = jnp.arange(rows.size)
    logits, cache = prefill_rest(
        model, params, mine.state, gates, places, mine.ends.last
    )
    return Prefilled.of(logits, mine.ends, cache, gates=gates, spare=spare)
