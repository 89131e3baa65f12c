"""The key/value cache: an explicit pytree, given in and handed back.

Every layer caches its text keys and values. A layer that sees the image holds the
image's as well, and they never change after the prefill. A layer that is off holds
nothing of the image.

Where a token reducer has shortened the image, layers hold unlike numbers of image
tokens, each with tags of its own, and new tokens may stand at other rotary positions:

    layer    image tokens   image_tags   shift
    0, 1     4              None         None     as the prompt has them
    2, 3     2              (B, 2)       2        RENUMBER: the next token is 2 nearer
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax import axes
from visor_jax.layer_plan import LayerKind, StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import (
    TokenReducer,
    is_reduced,
    is_shifted,
)
from visor_jax.ops.logical_axes import constrained
from visor_jax.ops.masks import TokenTags

# What the dimensions of keys and of values mean.
KEY_AXES = (axes.BATCH, None, axes.KV_HEADS, None)


@flax.struct.dataclass
class KeyValues:
    """Keys (already rotated where the layer rotates them) and values, (B, M, K, H)."""

    keys: Float[Array, "B M K H"]
    values: Float[Array, "B M K H"]

    def split_at(self, index: int) -> tuple["KeyValues", "KeyValues"]:
        """Returns the keys and values of the tokens before `index`, and of the rest."""
        return (
            KeyValues(self.keys[:, :index], self.values[:, :index]),
            KeyValues(self.keys[:, index:], self.values[:, index:]),
        )

    def write(self, new: "KeyValues", start: Int[Array, ""]) -> "KeyValues":
        """Returns the keys and values with `new` written from index `start` on."""
        return jax.tree.map(
            lambda old, piece: jax.lax.dynamic_update_slice_in_dim(
                old, piece.astype(old.dtype), start, axis=1
            ),
            self,
            new,
        )

    def split(self) -> "KeyValues":
        """Returns the keys and values split over the mesh in context, if there is one.

        By row and by head; heads that the mesh does not divide are on every device.
        """
        return jax.tree.map(lambda x: constrained(x, KEY_AXES), self)

    def padded(self, capacity: int) -> "KeyValues":
        """Returns the keys and values with room for `capacity` tokens."""
        extra = capacity - self.keys.shape[1]
        return jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))), self
        )


@flax.struct.dataclass
class LayerCache:
    """What one layer remembers; `image` is None where the layer sees no image.

    image_tags: of its image tokens, None where they are the prompt's. shift: (B,) how
    far the rotary position of a new token lies below its order here; None for nowhere.
    """

    text: KeyValues
    image: KeyValues | None = None
    image_tags: TokenTags | None = None
    shift: Int[Array, "B"] | None = None


@flax.struct.dataclass
class KVCache:
    """The caches of all layers and the tags of the tokens in them.

    length: how many text slots are used; new tokens are written from there on.
    """

    layers: tuple[LayerCache, ...]
    text: TokenTags
    image: TokenTags
    length: Int[Array, ""]

    @classmethod
    def empty(
        cls,
        config: VLMConfig,
        gates: Sequence[StaticGate],
        reducer: TokenReducer,
        *,
        rows: int,
        text_slots: int,
        image_tokens: int,
    ) -> "KVCache":
        """Returns a cache of zeros in which nothing is valid.

        What layers hold is what they hold after a prefill of these gates.

        Args:
          text_slots: text tokens that every row has room for.
          image_tokens: of every row, as the prompt has them.
        """
        lengths = reducer.image_lengths(image_tokens, config.plan.num_layers)
        on = config.plan.gate_of_layer(gates)
        dtype = jnp.dtype(config.compute_dtype)

        def empty(tokens: int, heads: int) -> KeyValues:
            shape = (rows, tokens, heads, config.decoder.head_dim)
            return KeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

        def layer(index: int, kind: LayerKind) -> LayerCache:
            text = empty(text_slots, config.decoder.num_kv_heads)
            shift = None
            if is_shifted(reducer, index):
                shift = jnp.zeros(rows, jnp.int32)
            if not kind.sees_image or not on.get(index, True):
                return LayerCache(text, shift=shift)
            own = config.adapter if kind.has_adapter else config.decoder
            image = empty(lengths[index], own.num_kv_heads)
            tags = None
            if is_reduced(reducer, index):
                tags = _no_tags(rows, lengths[index])
            return LayerCache(text, image, tags, shift)

        layers = tuple(layer(i, kind) for i, kind in enumerate(config.plan.kinds))
        text, image = _no_tags(rows, text_slots), _no_tags(rows, lengths[0])
        return cls(layers, text, image, jnp.int32(0))

    def with_capacity(self, capacity: int) -> "KVCache":
        """Returns the cache with `capacity` text slots; unused slots are invalid.

        Raises:
          ValueError: if the cache already holds more slots than that.
        """
        extra = capacity - self.text.order.shape[1]
        if extra < 0:
            raise ValueError(
                f"capacity={capacity} is below the {capacity - extra} tokens cached."
            )
        layers = tuple(c.replace(text=c.text.padded(capacity)) for c in self.layers)
        text = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, extra))), self.text)
        return self.replace(layers=layers, text=text)

    def split(self) -> "KVCache":
        """Returns the cache with all `KeyValues.split`."""
        return self.replace(layers=split_keys(self.layers))

    def with_tags(self, new: TokenTags) -> "KVCache":
        """Returns the cache with the tags of `new` tokens; layers write their K/V."""
        text = jax.tree.map(
            lambda old, piece: jax.lax.dynamic_update_slice_in_dim(
                old, piece, self.length, axis=1
            ),
            self.text,
            new,
        )
        return self.replace(text=text)

    def num_bytes(self) -> int:
        """Returns the bytes of all keys and values."""
        held = [(layer.text, layer.image) for layer in self.layers]
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))


def split_keys(tree: Any) -> Any:
    """Returns a tree with the `KeyValues` in it split over the mesh in context."""
    return jax.tree.map(
        lambda x: x.split() if isinstance(x, KeyValues) else x,
        tree,
        is_leaf=lambda x: isinstance(x, KeyValues),
    )


def _no_tags(rows: int, tokens: int) -> TokenTags:
    """Returns tags of tokens that do not exist."""
    zeros = jnp.zeros((rows, tokens), jnp.int32)
    return TokenTags(zeros, jnp.zeros_like(zeros), jnp.zeros((rows, tokens), bool))
