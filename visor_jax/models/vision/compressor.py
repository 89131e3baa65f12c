"""Parameters that make one image token of several: linear packing, and a convolution.

    packing     the tokens of a window side by side, (size D) -> D; begins as their mean
    depthwise   3 x 3 tokens around one, channel by channel, with bias; is added to it

Which tokens go together the token reducer says (`token_reduction.pooled`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.config import INIT_STD, CompressorConfig
from visor_jax.ops.linear import flat_dot_general


class Compressor(nn.Module):
    """The module of a `CompressorConfig`; width: of a token."""

    config: CompressorConfig
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        size, width = self.config.size, self.width
        if self.config.kind == "packing":
            init, shape = _mean_of_slots, (size * width, width)
        else:
            init, shape = nn.initializers.normal(INIT_STD), (size, width)
        self.kernel = self.param("kernel", init, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)

    def __call__(self, tokens: Float[Array, "B W size D"]) -> Float[Array, "B W D"]:
        """Returns one token for every window of tokens."""
        tokens, kernel = tokens.astype(self.dtype), self.kernel.astype(self.dtype)
        bias = self.bias.astype(self.dtype)
        if self.config.kind == "packing":
            flat = tokens.reshape(*tokens.shape[:2], -1)
            return flat_dot_general(flat, kernel) + bias
        own = tokens[:, :, self.config.size // 2]
        return own + jnp.einsum("bwsd,sd->bwd", tokens, kernel) + bias

    def create(self) -> None:
        """Makes the parameters, which networks have whatever reducer they run with."""
        self(jnp.zeros((1, 1, self.config.size, self.width), self.dtype))


def _mean_of_slots(
    key: jax.Array, shape: tuple[int, int], dtype: Any
) -> Float[Array, "slots D"]:
    """Returns the kernel that takes the mean of all slots."""
    del key
    size = shape[0] // shape[1]
    return jnp.tile(jnp.eye(shape[1], dtype=dtype) / size, (size, 1))
