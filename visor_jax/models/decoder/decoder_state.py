"""A batch between two layers, and what happens to it there.

A token reducer looks, notes and drops image tokens before a layer (`reduced`); a layer
that remembers finds what is known (`past_of_layer`) and leaves its cache behind
(`with_places`).
"""

import functools
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Int

from visor_jax.models.config import DecoderConfig
from visor_jax.models.decoder.decoder_layer import DecoderLayer, Past
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache, LayerCache
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import (
    LayerLook,
    TakesNotes,
    TokenReducer,
    is_reduced,
    renumbered,
)
from visor_jax.ops.masks import MaskForm, TokenTags


@flax.struct.dataclass
class DecoderState:
    """A batch between two layers: both streams, and what the layers behind remember.

    text: while decoding the new tokens alone. image: its tags alone where every layer
    to come has its keys and values at hand. caches: one per layer gone through; None if
    nothing is remembered (training). image_tags: of the image as the first layer saw
    it. shift: see `LayerCache`. notes: see `TakesNotes`.
    """

    text: TokenStream
    image: TokenStream | TokenTags
    caches: tuple[LayerCache, ...] | None = None
    image_tags: TokenTags | None = None
    shift: Int[Array, "B"] | None = None
    notes: Any = None

    def cache(self) -> KVCache:
        """Returns the cache of a prompt that has gone through all layers."""
        length = jnp.asarray(self.text.length, jnp.int32)
        # Nothing is known of the tokens that are to come.
        text = self.text.tags.replace(form=MaskForm.TAGS)
        return KVCache(self.caches, text, self.image_tags, length)


def reduced(
    index: int,
    state: DecoderState,
    reducer: TokenReducer,
    layer: DecoderLayer,
    config: DecoderConfig,
) -> DecoderState:
    """Returns what a layer is to see: fewer image tokens, other positions.

    layer: the layer itself, by which a reducer may look at the image.

    Raises:
      ValueError: if the reducer wants to see an image of which K/V alone are at hand.
    """
    drops = index in reducer.stages
    if drops:
        seen = _look(index, state, reducer, layer)
        image = reducer.on_stream(index, state.text, state.image, seen)
        # Nobody asks for notes behind the last stage.
        notes = None if index == max(reducer.stages) else state.notes
        state = state.replace(image=image, notes=notes)
    if index == 0:
        state = state.replace(image_tags=_tags(state.image))
        drops = drops or reducer.reads_crops
    if drops and reducer.position_rule.renumbers(index):
        text, image, shift = renumbered(
            state.text,
            state.image,
            head_dim=config.head_dim,
            rope_theta=config.rope_theta,
        )
        state = state.replace(text=text, image=image, shift=shift)
    if isinstance(reducer, TakesNotes) and index in reducer.noted:
        seen = _look(index, state, reducer, layer)
        notes = reducer.note(index, state.text, state.image, seen)
        state = state.replace(notes=notes)
    return state


def _look(
    index: int, state: DecoderState, reducer: TokenReducer, layer: DecoderLayer
) -> LayerLook:
    if not isinstance(state.image, TokenStream):
        raise ValueError(
            f"{reducer} looks at the image before layer {index}, where only its keys "
            "and values are at hand: give the image stream, and no image_keys from "
            "this layer on."
        )
    streams = state.text, state.image
    return LayerLook(
        weights=functools.partial(layer.look, *streams),
        weights_by_head=functools.partial(layer.look_by_head, *streams),
        weights_back=functools.partial(layer.look_back, *streams),
        first=_tags(state.image) if state.image_tags is None else state.image_tags,
        notes=state.notes,
    )


def _tags(image: TokenStream | TokenTags) -> TokenTags:
    return image.tags if isinstance(image, TokenStream) else image


def past_of_layer(
    index: int, state: DecoderState, past: KVCache | None, image_keys: KeyValues | None
) -> Past:
    """Returns what is at hand for a layer that remembers."""
    if past is None:
        return Past(image_keys, _tags(state.image))
    layer = past.layers[index]
    tags = past.image if layer.image_tags is None else layer.image_tags
    return Past(layer.image, tags, layer.text, past.text, past.length)


def with_places(
    index: int, state: DecoderState, past: KVCache | None, reducer: TokenReducer
) -> DecoderState:
    """Returns the state with where the newest cache's tokens stand, if elsewhere."""
    *others, new = state.caches
    if past is not None:
        old = past.layers[index]
        tags, shift = old.image_tags, old.shift
    else:
        differs = is_reduced(reducer, index) and new.image is not None
        tags, shift = _tags(state.image) if differs else None, state.shift
    new = new.replace(image_tags=tags, shift=shift)
    return state.replace(caches=(*others, new))
