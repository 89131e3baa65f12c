"""Where text tokens look in the CROSS layers, and what is read of a base view with it.

An adapter attends from text to image alone, so that its weights are a map over the
image. They are computed beside the network's own attention, for the tokens that are
asked about.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder_state import DecoderState
from visor_jax.models.vlm import VLM, begin_batch
from visor_jax.sharding.programs import mesh_jit

Gates = tuple[StaticGate, ...]


@mesh_jit(static_argnames=("model", "gates"))
def cross_looks(
    params: Any, batch: Batch, rows: Int[Array, "B R"], *, model: VLM, gates: Gates
) -> dict[int, Float[Array, "B R V"]]:
    """Returns where these text tokens look in every CROSS layer, in one pass."""

    def run(module: VLM) -> dict[int, Array]:
        return looks_on_the_way(module, begin_batch(module, batch), rows, gates)[1]

    return model.apply({"params": params}, method=run)


@mesh_jit(static_argnames=("model", "gates"))
def read_base_view(
    params: Any, batch: Batch, places: Int[Array, "B R"], *, model: VLM, gates: Gates
) -> tuple[
    Float[Array, "B R D"], Float[Array, "B V D"], dict[int, Float[Array, "B R V"]]
]:
    """Returns tokens behind the last layer, the image before the first, and looks.

    Args:
      places: of the text tokens that are asked about.
    """

    def run(module: VLM) -> tuple[Array, Array, dict[int, Array]]:
        begun = begin_batch(module, batch)
        state, looks = looks_on_the_way(module, begun, places, gates)
        done, _ = module.run(state, gates, start=module.config.plan.cross_layers[-1])
        words = jnp.take_along_axis(done.text.hidden, places[..., None], axis=1)
        image = begun.image.hidden.astype(jnp.float32)
        return words.astype(jnp.float32), image, looks

    return model.apply({"params": params}, method=run)


def looks_on_the_way(
    module: VLM, state: DecoderState, rows: Int[Array, "B R"], gates: Gates
) -> tuple[DecoderState, dict[int, Float[Array, "B R V"]]]:
    """Returns prompts before the last CROSS layer, and {layer: where tokens look}.

    Args:
      module: bound, of a plan with CROSS layers. state: before the first layer.
      rows: text tokens of each prompt.
    """
    begun, found = 0, {}
    for layer in module.config.plan.cross_layers:
        state, _ = module.run(state, gates, start=begun, stop=layer)
        streams = (state.text, state.image)
        found[layer] = module.language_model.look_across(layer, *streams, rows)
        begun = layer
    return state, found
