"""Layers of which nothing but the streams is kept: one by one, or as a scan.

    0 1 2 | 3 4 5 | 6 7 8 | 9        C T S, three times over, and one more
    scan  over    [0 3 6], [1 4 7], [2 5 8] with their gates; then 9

A SELF layer whose gate is off is a TEXT layer, so a TEXT layer may stand in a column of
SELF layers: with a gate that is never on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from visor_jax.layer_plan import LayerKind, RepeatedLayers
from visor_jax.models.decoder.decoder_layer import WAYS, DecoderLayer, Way
from visor_jax.models.decoder.decoder_state import DecoderState
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.stacked_layers import stacked
from visor_jax.ops.gating import Gate, gated


def through_layer(
    layer: DecoderLayer,
    kind: LayerKind,
    gate: Gate,
    state: DecoderState,
    *,
    is_read: bool,
    remat: str,
) -> DecoderState:
    """Returns the state behind a layer.

    Args:
      is_read: whether a later layer may read the image.
      remat: see `VLMConfig`; of each layer by itself, so that the backward pass holds
        what one layer has computed again, and no more.
    """
    again = remat == "layer" or (remat == "gated" and kind.is_gated)
    ways = WAYS[kind]
    on = _streams_of(ways.when_on(is_read), again)
    off, read = _streams_of(ways.off, again), _streams_of(ways.read, again)
    text, image = gated(gate, on, off, layer, state.text, state.image, read=read)
    return state.replace(text=text, image=image)


def through_repeated(
    layers: Sequence[DecoderLayer],
    repeated: RepeatedLayers,
    gate_of: Mapping[int, Gate],
    state: DecoderState,
    *,
    dtype: jnp.dtype,
    remat: str,
) -> DecoderState:
    """Returns the state behind all repetitions: `lax.scan` over stacked parameters.

    Args:
      layers: all of the decoder's, bound. gate_of: traced, {layer: its gate}.
    """
    columns = [repeated.column(place) for place in range(len(repeated.kinds))]
    parts = [stacked([layers[i] for i in column], dtype) for column in columns]
    gates = [
        _gates_of(column, gate_of) if kind.is_gated else None
        for column, kind in zip(columns, repeated.kinds, strict=True)
    ]

    def repetition(hidden: Any, operands: Any) -> tuple[Any, None]:
        for place, (variables, gate) in enumerate(operands):
            through = _applied(repeated, place, state, remat)
            run = nn.apply(through, parts[place][0])
            hidden = run(variables, True if gate is None else gate, *hidden)
        return hidden, None

    operands = [(part[1], gate) for part, gate in zip(parts, gates, strict=True)]
    # The tags and rotary tables are those of every layer: nothing but this changes.
    hidden = (state.text.hidden, state.image.hidden)
    (text, image), _ = jax.lax.scan(repetition, hidden, operands)
    return state.replace(
        text=state.text.with_hidden(text), image=state.image.with_hidden(image)
    )


def _applied(
    repeated: RepeatedLayers, place: int, state: DecoderState, remat: str
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns a layer's function of its gate and the hidden states of both streams."""

    def run(
        layer: DecoderLayer, gate: Gate, text: jax.Array, image: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        before = state.replace(
            text=state.text.with_hidden(text), image=state.image.with_hidden(image)
        )
        after = through_layer(
            *(layer, repeated.kinds[place], gate, before),
            is_read=repeated.image_is_read[place],
            remat=remat,
        )
        return after.text.hidden, after.image.hidden

    return run


def _gates_of(column: range, gate_of: Mapping[int, Gate]) -> jax.Array:
    """Returns the gates of the layers in a column, one per repetition."""
    never_on = jnp.zeros_like(next(iter(gate_of.values())))
    return jnp.stack([gate_of.get(layer, never_on) for layer in column])


def _streams_of(
    way: Way, again: bool
) -> Callable[..., tuple[TokenStream, TokenStream]]:
    """Returns a function that runs a layer this way and drops what it would cache.

    The branches of a gate must return alike, and they cache different things.
    again: whether the backward pass computes the layer again.
    """

    def run(layer: DecoderLayer, *streams: TokenStream) -> Any:
        text, image, _ = way(layer, *streams)
        return text, image

    return nn.remat(run) if again else run
