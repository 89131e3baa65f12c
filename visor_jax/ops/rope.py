"""Rotary position embedding in Qwen's half-split layout."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class RotaryTable:
    """Cosines and sines of every token's angles, (B, T, H) float32."""

    cos: Float[Array, "B T H"]
    sin: Float[Array, "B T H"]

    def concat(self, other: "RotaryTable") -> "RotaryTable":
        """Returns the table of both token lists, `self` first."""
        return RotaryTable(
            cos=jnp.concatenate([self.cos, other.cos], axis=1),
            sin=jnp.concatenate([self.sin, other.sin], axis=1),
        )

    def take(self, indices: Int[Array, "B R"]) -> "RotaryTable":
        """Returns the table of the tokens at these indices of each row."""
        indices = indices[..., None]
        return RotaryTable(
            cos=jnp.take_along_axis(self.cos, indices, axis=1),
            sin=jnp.take_along_axis(self.sin, indices, axis=1),
        )


def rotary_table(
    positions: Int[Array, "B T"], head_dim: int, theta: float
) -> RotaryTable:
    """Returns the table for these position ids; angle i is position * theta^(-2i/H).

    Always float32: bfloat16 cannot tell positions above 256 apart.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = 1.0 / (theta**exponents)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)
    return RotaryTable(cos=jnp.cos(angles), sin=jnp.sin(angles))


def rotate(x: Float[Array, "B T N H"], table: RotaryTable) -> Float[Array, "B T N H"]:
    """Returns x with each pair (x[i], x[i + H/2]) turned by its token's angle i."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cos = table.cos.astype(x.dtype)[:, :, None, :]
    sin = table.sin.astype(x.dtype)[:, :, None, :]
    return x * cos + turned * sin
