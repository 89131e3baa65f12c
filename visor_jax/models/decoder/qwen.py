"""The parts of a Qwen decoder layer; `decoder_layer` says which tokens go through.

Parameter names follow the published checkpoints. Norms, softmax and rotary tables are
float32; everything else runs in the dtype of the hidden states.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.config import DecoderConfig
from visor_jax.models.decoder.kv_cache import KeyValues
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.linear import Dense
from visor_jax.ops.rope import rotate


class RMSNorm(nn.Module):
    """x / rms(x) * scale, computed in float32, cast back before the scale."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.eps)).astype(x.dtype)
        return normed * scale.astype(x.dtype)


class Attention(nn.Module):
    """The projections of self-attention; which tokens meet is the caller's business.

    Qwen2 and Qwen3: see `DecoderConfig`.
    """

    config: DecoderConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        c = self.config

        def heads(count: int) -> nn.Dense:
            width = count * c.head_dim
            return Dense(width, c.init_std, use_bias=c.qkv_bias, dtype=self.dtype)

        self.q_proj = heads(c.num_heads)
        self.k_proj = heads(c.num_kv_heads)
        self.v_proj = heads(c.num_kv_heads)
        self.o_proj = Dense(c.width, c.init_std, use_bias=False, dtype=self.dtype)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.norm_eps), RMSNorm(c.norm_eps)

    def queries(self, x: TokenStream) -> Float[Array, "B T N H"]:
        """Returns the rotated queries of the stream's tokens."""
        queries = self._split(self.q_proj(x.hidden), self.config.num_heads)
        if self.config.qk_norm:
            queries = self.q_norm(queries)
        return rotate(queries, x.rotary)

    def keys_values(self, x: TokenStream) -> KeyValues:
        """Returns the rotated keys and the values of the stream's tokens."""
        count = self.config.num_kv_heads
        return KeyValues(self.keys(x), self._split(self.v_proj(x.hidden), count))

    def keys(self, x: TokenStream) -> Float[Array, "B T K H"]:
        """Returns the rotated keys of the stream's tokens."""
        keys = self._split(self.k_proj(x.hidden), self.config.num_kv_heads)
        if self.config.qk_norm:
            keys = self.k_norm(keys)
        return rotate(keys, x.rotary)

    def output(self, mixed: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Returns the heads merged and projected back to the stream's width."""
        return self.o_proj(mixed.reshape(*mixed.shape[:2], self.config.heads_width))

    def _split(self, x: Float[Array, "B T NH"], heads: int) -> Float[Array, "B T N H"]:
        # No -1 among the sizes: a stream may be empty.
        return x.reshape(*x.shape[:2], heads, self.config.head_dim)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no biases."""

    config: DecoderConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        c = self.config
        self.gate_proj = Dense(
            c.mlp_width, c.init_std, use_bias=False, dtype=self.dtype
        )
        self.up_proj = Dense(c.mlp_width, c.init_std, use_bias=False, dtype=self.dtype)
        self.down_proj = Dense(c.width, c.init_std, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))
