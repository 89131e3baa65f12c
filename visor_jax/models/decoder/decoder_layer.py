"""One decoder layer in the ways VISOR runs it, over ordinary Qwen2 weights.

    TEXT                  text <- layer(text)
    CROSS                 text <- layer(text + adapter(text, image))
    SELF, on              [image; text] <- layer([image; text])
    SELF, off             text <- layer(text), image as it was
    SELF, on, image unread  text <- layer([image; text]); of the image only K/V are made

Every way is one method; the decoder picks among them. A method takes both streams and
what the layer remembers (`past`, None without a cache) and returns both streams and
what it will remember. With `past`, `text` holds the new tokens only, their keys and
values are written into the cache, and the image is read from the cache.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.models.config import AdapterConfig, DecoderConfig
from visor_jax.models.decoder.cross_attention import CrossAttention
from visor_jax.models.decoder.kv_cache import KeyValues, LayerCache
from visor_jax.models.decoder.qwen import MLP, Attention, RMSNorm
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.attention import AUTO, attend
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import TokenTags


@flax.struct.dataclass
class Past:
    """The part of a `KVCache` that one layer reads while decoding.

    layer: this layer's keys and values. text, image: tags of the cached tokens (text
    already includes the new ones). length: the text slot of the first new token.
    """

    layer: LayerCache
    text: TokenTags
    image: TokenTags
    length: Int[Array, ""]


# The image stream is None while decoding: whoever needs it has it in the cache.
LayerResult = tuple[TokenStream, TokenStream | None, LayerCache]


class DecoderLayer(nn.Module):
    """Qwen2 layer, with a text-to-image adapter if `adapter` is given (CROSS).

    attention: the kernel's name (`visor_jax.ops.attention`).
    """

    config: DecoderConfig
    adapter: AdapterConfig | None
    dtype: jnp.dtype
    attention: str = AUTO

    def setup(self) -> None:
        c = self.config
        self.input_layernorm = RMSNorm(c.norm_eps)
        self.self_attn = Attention(c, self.dtype)
        self.post_attention_layernorm = RMSNorm(c.norm_eps)
        self.mlp = MLP(c, self.dtype)
        if self.adapter is not None:
            self.cross_attention = CrossAttention(
                self.adapter, c, self.dtype, self.attention
            )

    def text_only(
        self, text: TokenStream, image: TokenStream | None, past: Past | None = None
    ) -> LayerResult:
        """The layer on text alone; the image stream is handed through untouched."""
        normed = self._normed(text)
        text_kv, tags = self._text_keys(normed, past)
        hidden = self._attend_and_mlp(text, normed, (text_kv, tags))
        return text.with_hidden(hidden), image, LayerCache(text_kv)

    def cross(
        self, text: TokenStream, image: TokenStream | None, past: Past | None = None
    ) -> LayerResult:
        """The adapter from text to image, then the layer on text alone."""
        if past is None:
            image_kv, tags = self.cross_attention.keys_values(image), image.tags
        else:
            image_kv, tags = past.layer.image, past.image
        text = text.with_hidden(self.cross_attention(text, image_kv, tags))
        text, image, cache = self.text_only(text, image, past)
        return text, image, cache.replace(image=image_kv)

    def full(self, text: TokenStream, image: TokenStream) -> LayerResult:
        """The ordinary causal layer over image and text; refines both."""
        both = image.concat(text)
        normed = self._normed(both)
        kv = self.self_attn.keys_values(normed)
        hidden = self._attend_and_mlp(both, normed, (kv, both.tags))
        image_hidden, text_hidden = jnp.split(hidden, [image.length], axis=1)
        image_kv, text_kv = kv.split_at(image.length)
        cache = LayerCache(text_kv, image_kv)
        return text.with_hidden(text_hidden), image.with_hidden(image_hidden), cache

    def full_for_text(
        self, text: TokenStream, image: TokenStream | None, past: Past | None = None
    ) -> LayerResult:
        """As `full` for the text; the image, which nobody reads later, stays."""
        if past is None:
            image_kv = self.self_attn.keys_values(self._normed(image))
            image_tags = image.tags
        else:
            image_kv, image_tags = past.layer.image, past.image
        normed = self._normed(text)
        text_kv, text_tags = self._text_keys(normed, past)
        hidden = self._attend_and_mlp(
            text, normed, (image_kv, image_tags), (text_kv, text_tags)
        )
        return text.with_hidden(hidden), image, LayerCache(text_kv, image_kv)

    def image_keys(self, image: TokenStream) -> KeyValues | None:
        """Returns the image's K/V in a CROSS layer, None in others."""
        if self.adapter is None:
            return None
        return self.cross_attention.keys_values(image)

    def _normed(self, x: TokenStream) -> TokenStream:
        return x.replace(hidden=self.input_layernorm(x.hidden))

    def _text_keys(
        self, normed: TokenStream, past: Past | None
    ) -> tuple[KeyValues, TokenTags]:
        """Returns K/V of all text so far and their tags."""
        new = self.self_attn.keys_values(normed)
        if past is None:
            return new, normed.tags
        return past.layer.text.write(new, past.length), past.text

    def _attend_and_mlp(
        self, x: TokenStream, normed: TokenStream, *seen: tuple[KeyValues, TokenTags]
    ) -> Float[Array, "B T D"]:
        """Returns x's hidden states after attention over all of `seen` and the MLP."""
        parts = [KeyPart(kv.keys, kv.values, tags) for kv, tags in seen]
        queries = self.self_attn.queries(normed)
        mixed = attend(queries, parts, x.tags, kernel=self.attention)
        hidden = x.hidden + self.self_attn.output(mixed)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))
