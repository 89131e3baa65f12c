"""A stream of tokens: hidden states with the tags that say where they belong."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax import axes
from visor_jax.ops.logical_axes import constrained
from visor_jax.ops.masks import TokenTags
from visor_jax.ops.rope import RotaryTable, rotary_table


@flax.struct.dataclass
class TokenStream:
    """The text tokens or the image tokens of a batch between two layers.

    hidden: (B, T, D). tags: see `TokenTags`. rotary: the tokens' rotary table, made
    once because rotary positions are the same in every layer, unless a token reducer
    renumbers them. They are the tokens' order to begin with. places: of image tokens
    where crops are left out (`Batch.image_places`); None where tokens are neighbours as
    they lie: whole images, and what a token reducer has left.
    """

    hidden: Float[Array, "B T D"]
    tags: TokenTags
    rotary: RotaryTable
    places: Int[Array, "B T"] | None = None

    @classmethod
    def create(
        cls,
        hidden: Float[Array, "B T D"],
        tags: TokenTags,
        *,
        head_dim: int,
        rope_theta: float,
    ) -> "TokenStream":
        """Returns the stream of tokens whose rotary positions are their order."""
        rotary = rotary_table(tags.order, head_dim, rope_theta)
        return cls(hidden, tags, rotary).with_hidden(hidden)

    @property
    def length(self) -> int:
        return self.hidden.shape[1]

    def with_hidden(self, hidden: Float[Array, "B T D"]) -> "TokenStream":
        """Returns the stream with new hidden states, split over devices by sample."""
        hidden = constrained(hidden, (axes.BATCH, None, None))
        return self.replace(hidden=hidden)

    def concat(self, other: "TokenStream") -> "TokenStream":
        """Returns both streams as one, `self` first; masks ignore the order."""
        return TokenStream(
            hidden=jnp.concatenate([self.hidden, other.hidden], axis=1),
            tags=self.tags.concat(other.tags),
            rotary=self.rotary.concat(other.rotary),
        )

    def take(self, indices: Int[Array, "B R"]) -> "TokenStream":
        """Returns the tokens at these indices of each row, with all that they carry."""
        return TokenStream(
            hidden=jnp.take_along_axis(self.hidden, indices[..., None], axis=1),
            tags=self.tags.take(indices),
            rotary=self.rotary.take(indices),
        )
