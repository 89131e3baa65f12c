"""The key/value cache: an explicit pytree, given in and handed back.

Every layer caches its text keys and values. A CROSS layer holds the image's keys and
values as well, and so does a SELF layer that is on; nobody else does, and none of them
ever changes after the prefill. A SELF layer that is off holds nothing of the image.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.ops.masks import TokenTags


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

    def padded(self, capacity: int) -> "KeyValues":
        """Returns the keys and values with room for `capacity` tokens."""
        extra = capacity - self.keys.shape[1]
        return jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))), self
        )


@flax.struct.dataclass
class LayerCache:
    """What one layer remembers; `image` is None where the layer sees no image."""

    text: KeyValues
    image: KeyValues | None = None


@flax.struct.dataclass
class KVCache:
    """The caches of all layers and the tags of the tokens in them.

    length: how many text slots are used; new tokens are written from there on.
    """

    layers: tuple[LayerCache, ...]
    text: TokenTags
    image: TokenTags
    length: Int[Array, ""]

    def with_capacity(self, capacity: int) -> "KVCache":
        """Returns the cache with `capacity` text slots; unused slots are invalid.

        Raises:
          ValueError: if the cache already holds more slots than that.
        """
        extra = capacity - self.text.positions.shape[1]
        if extra < 0:
            raise ValueError(
                f"capacity={capacity} is below the {capacity - extra} tokens cached."
            )
        layers = tuple(c.replace(text=c.text.padded(capacity)) for c in self.layers)
        text = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, extra))), self.text)
        return self.replace(layers=layers, text=text)

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
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.layers))
