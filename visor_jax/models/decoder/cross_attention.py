"""The adapter of a CROSS layer: text looks at the image, the image stays as it is.

text + o(attend(q(norm(text)), k(v'), v(v'))) with v' = norm(image) + conv(norm(image)).
The depthwise convolution over the image sequence tells neighbours apart (conditional
position embedding), those of the whole image where crops are left out; the adapter has
no rotary positions. The output projection starts at zero, so that adding adapters to a
pretrained network changes nothing at step 0. What shapes there are and what else they
start as: `visor_jax.models.adapters`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.models.config import AdapterConfig, DecoderConfig
from visor_jax.models.decoder.kv_cache import KeyValues
from visor_jax.models.decoder.qwen import RMSNorm
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.attention import AUTO, attend
from visor_jax.ops.attention_weights import attention_weights
from visor_jax.ops.depthwise_conv import depthwise_conv, depthwise_conv_at
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.linear import Dense
from visor_jax.ops.masks import TokenTags, form_between, sees_shared


class CrossAttention(nn.Module):
    """Text-to-image attention, residual on the text stream."""

    config: AdapterConfig
    decoder: DecoderConfig
    dtype: jnp.dtype
    attention: str = AUTO

    def setup(self) -> None:
        d = self.decoder
        kv_width = self.config.num_kv_heads * d.head_dim

        def dense(width: int) -> nn.Dense:
            bias, std = self.config.qkv_bias, self.config.init_std
            return Dense(width, std, use_bias=bias, dtype=self.dtype)

        self.text_norm = RMSNorm(d.norm_eps)
        self.image_norm = RMSNorm(d.norm_eps)
        self.position_conv = self.param(
            "position_conv",
            nn.initializers.zeros,
            (self.config.conv_kernel, d.width),
            jnp.float32,
        )
        self.q_proj = dense(d.heads_width)
        self.k_proj = dense(kv_width)
        self.v_proj = dense(kv_width)
        self.o_proj = Dense(d.width, 0.0, use_bias=False, dtype=self.dtype)
        if self.config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(d.norm_eps), RMSNorm(d.norm_eps)

    def keys_values(self, image: TokenStream) -> KeyValues:
        """Returns the image's keys and values; they serve every question about it."""
        normed = self.image_norm(image.hidden)
        # Padding must not leak into its neighbours through the convolution.
        normed = jnp.where(image.tags.valid[..., None], normed, 0)
        if image.places is None:
            convolved = depthwise_conv(normed, self.position_conv)
        else:
            convolved = depthwise_conv_at(normed, self.position_conv, image.places)
        placed = normed + convolved
        heads = self.config.num_kv_heads
        keys = self._split(self.k_proj(placed), heads)
        if self.config.qk_norm:
            keys = self.k_norm(keys)
        return KeyValues(keys, self._split(self.v_proj(placed), heads))

    def __call__(
        self, text: TokenStream, image_kv: KeyValues, image_tags: TokenTags
    ) -> Float[Array, "B T D"]:
        """Returns the text's hidden states after looking at the image.

        A token that sees no image token (text before the image, a sample without one)
        passes unchanged.
        """
        if image_kv.keys.shape[1] == 0:
            return text.hidden
        return text.hidden + self.added(text, image_kv, image_tags)

    def added(
        self, text: TokenStream, image_kv: KeyValues, image_tags: TokenTags
    ) -> Float[Array, "B T D"]:
        """Returns what looking at an image adds to the text; 0 where none is seen."""
        queries = self._queries(text)
        form = form_between(text.tags, image_tags)
        part = KeyPart(image_kv.keys, image_kv.values, image_tags, form)
        mixed = attend(queries, [part], text.tags, kernel=self.attention)
        sees_image = sees_shared(text.tags, image_tags)
        merged = mixed.reshape(*mixed.shape[:2], self.decoder.heads_width)
        looked = self.o_proj(merged)
        return jnp.where(sees_image[..., None], looked, 0)

    def look(
        self, text: TokenStream, image: TokenStream, rows: Int[Array, "B R"]
    ) -> Float[Array, "B R V"]:
        """Returns how the text tokens at these indices look at the image; float32.

        Averaged over heads; a row adds up to 1, or is zero where it sees no image.
        """
        asked, kv = text.take(rows), self.keys_values(image)
        keys = [KeyPart(kv.keys, kv.values, image.tags)]
        return attention_weights(self._queries(asked), keys, asked.tags)

    def _queries(self, text: TokenStream) -> Float[Array, "B T N H"]:
        asking = self.q_proj(self.text_norm(text.hidden))
        queries = self._split(asking, self.decoder.num_heads)
        return self.q_norm(queries) if self.config.qk_norm else queries

    def _split(self, x: Float[Array, "B M NH"], heads: int) -> Float[Array, "B M N H"]:
        return x.reshape(*x.shape[:2], heads, self.decoder.head_dim)
