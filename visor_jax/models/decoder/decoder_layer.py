"""One decoder layer in the ways VISOR runs it, over ordinary Qwen weights.

    TEXT                    text <- layer(text)
    CROSS                   text <- layer(text + adapter(text, image))
    SELF, on                [image; text] <- layer([image; text])
    SELF, off               text <- layer(text), image as it was
    SELF, on, image unread  text <- layer([image; text]); of the image only K/V are made
    READ; SELF at READ      the same, whoever reads the image later: it stays as it is

Every way is one method, and `WAYS` says which kind of layer runs which. A method takes
both streams and what is at hand of tokens that the layer has seen before (`past`), and
returns both streams and what the layer is to remember. Where the image's keys and
values are at hand, its stream is not asked for, and the image is not refined.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.layer_plan import LayerKind
from visor_jax.models.config import AdapterConfig, DecoderConfig
from visor_jax.models.decoder.cross_attention import CrossAttention
from visor_jax.models.decoder.kv_cache import KeyValues, LayerCache
from visor_jax.models.decoder.qwen import MLP, Attention, RMSNorm
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.attention import AUTO, attend
from visor_jax.ops.attention_weights import (
    attention_weights,
    over_blocks,
    weights_by_head,
)
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import TokenTags, form_between


@flax.struct.dataclass
class Past:
    """What one layer need not compute again.

    image: the image's keys and values in this layer, and image_tags; None where they
    are to be made of the image stream. text: those of earlier text, with room for the
    new tokens from index `length` on; None if all text is new. text_tags: of all of it,
    the new tokens included.
    """

    image: KeyValues | None
    image_tags: TokenTags
    text: KeyValues | None = None
    text_tags: TokenTags | None = None
    length: Int[Array, ""] | None = None


# The image stream may be tags alone: whoever needs more has it in the past.
ImageStream = TokenStream | TokenTags
LayerResult = tuple[TokenStream, ImageStream, LayerCache]


class DecoderLayer(nn.Module):
    """Qwen layer, with a text-to-image adapter if `adapter` is given (CROSS).

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
        self, text: TokenStream, image: ImageStream, past: Past | None = None
    ) -> LayerResult:
        """The layer on text alone; the image stream is handed through untouched."""
        normed = self._normed(text)
        text_kv, tags = self._text_keys(normed, past)
        hidden = self._attend_and_mlp(text, normed, (text_kv, tags))
        return text.with_hidden(hidden), image, LayerCache(text_kv)

    def cross(
        self, text: TokenStream, image: ImageStream, past: Past | None = None
    ) -> LayerResult:
        """The adapter from text to image, then the layer on text alone."""
        if past is None or past.image is None:
            image_kv, tags = self.cross_attention.keys_values(image), image.tags
        else:
            image_kv, tags = past.image, past.image_tags
        text = text.with_hidden(self.cross_attention(text, image_kv, tags))
        text, image, cache = self.text_only(text, image, past)
        return text, image, cache.replace(image=image_kv)

    def full(
        self, text: TokenStream, image: TokenStream, past: Past | None = None
    ) -> LayerResult:
        """The ordinary causal layer over image and text; refines both.

        It needs all tokens of both streams: nothing of the past is used.
        """
        del past
        both = image.concat(text)
        normed = self._normed(both)
        kv = self.self_attn.keys_values(normed)
        hidden = self._attend_and_mlp(both, normed, (kv, both.tags))
        image_hidden, text_hidden = jnp.split(hidden, [image.length], axis=1)
        image_kv, text_kv = kv.split_at(image.length)
        cache = LayerCache(text_kv, image_kv)
        return text.with_hidden(text_hidden), image.with_hidden(image_hidden), cache

    def full_for_text(
        self, text: TokenStream, image: ImageStream, past: Past | None = None
    ) -> LayerResult:
        """As `full` for the text; the image stays as it is."""
        if past is None or past.image is None:
            image_kv = self.self_attn.keys_values(self._normed(image))
            image_tags = image.tags
        else:
            image_kv, image_tags = past.image, past.image_tags
        normed = self._normed(text)
        text_kv, text_tags = self._text_keys(normed, past)
        hidden = self._attend_and_mlp(
            text, normed, (image_kv, image_tags), (text_kv, text_tags)
        )
        return text.with_hidden(hidden), image, LayerCache(text_kv, image_kv)

    def image_keys(self, image: TokenStream) -> KeyValues | None:
        """Returns the image's K/V where they depend on no position, else None.

        Adapters have no rotary positions, so that theirs serve every prompt.
        """
        if self.adapter is None:
            return None
        return self.cross_attention.keys_values(image)

    def unrefined_keys(self, image: TokenStream) -> KeyValues:
        """Returns the image's K/V of a layer that sees it and does not refine it."""
        if self.adapter is None:
            return self.self_attn.keys_values(self._normed(image))
        return self.cross_attention.keys_values(image)

    def look(
        self, text: TokenStream, image: TokenStream, rows: Int[Array, "B R"]
    ) -> Float[Array, "B R V"]:
        """Returns how text tokens would look at the image in this layer's attention.

        See `token_reducer.TextLook`. Only these rows are computed, and nothing of them
        is used by the layer.
        """
        asked = text.take(rows)
        queries, keys = self.asking(asked), self.asked(image, text)
        return attention_weights(queries, keys, asked.tags)[..., : image.length]

    def look_by_head(
        self, text: TokenStream, image: TokenStream, rows: Int[Array, "B R"]
    ) -> Float[Array, "B N R V"]:
        """Returns the same of every head by itself."""
        asked = text.take(rows)
        queries, keys = self.asking(asked), self.asked(image, text)
        return weights_by_head(queries, keys, asked.tags)[..., : image.length]

    def look_back(self, text: TokenStream, image: TokenStream) -> Float[Array, "B V"]:
        """Returns the share of its attention that each image token would pay to text.

        Block by block of image tokens: the whole map is never there at once.
        """
        keys, tags = self.asked(image, text), image.tags

        def shares(block: tuple[Array, ...]) -> Float[Array, "B block"]:
            asked, *places = block
            weights = attention_weights(asked, keys, TokenTags(*places))
            return weights[..., image.length :].sum(axis=-1)

        rows = self.asking(image), tags.order, tags.segments, tags.valid
        return over_blocks(shares, rows, image.length)

    def asking(self, stream: TokenStream) -> Float[Array, "B T N H"]:
        """Returns the tokens' queries in this layer's attention."""
        return self.self_attn.queries(self._normed(stream))

    def asked(self, image: TokenStream, text: TokenStream) -> list[KeyPart]:
        """Returns the keys of both streams in this layer's attention.

        For weights alone: there are no values to mix, keys stand in their place.
        """
        return [
            KeyPart(key, key, stream.tags)
            for stream in (image, text)
            for key in [self.self_attn.keys(self._normed(stream))]
        ]

    def _normed(self, x: TokenStream) -> TokenStream:
        return x.replace(hidden=self.input_layernorm(x.hidden))

    def _text_keys(
        self, normed: TokenStream, past: Past | None
    ) -> tuple[KeyValues, TokenTags]:
        """Returns K/V of all text so far and their tags."""
        new = self.self_attn.keys_values(normed)
        if past is None or past.text is None:
            return new, normed.tags
        # Where heads do not split, one token's keys are sent, never all of them.
        return past.text.write(new.split(), past.length).split(), past.text_tags

    def _attend_and_mlp(
        self, x: TokenStream, normed: TokenStream, *seen: tuple[KeyValues, TokenTags]
    ) -> Float[Array, "B T D"]:
        """Returns x's hidden states after attention over all of `seen` and the MLP."""
        parts = [
            KeyPart(kv.keys, kv.values, tags, form_between(x.tags, tags))
            for kv, tags in seen
        ]
        queries = self.self_attn.queries(normed)
        mixed = attend(queries, parts, x.tags, kernel=self.attention)
        hidden = x.hidden + self.self_attn.output(mixed)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


# One way of running a layer: (layer, text, image, past) to what its method returns.
Way = Callable[..., LayerResult]


class Ways(NamedTuple):
    """How a kind of layer runs.

    refining: on, while a later layer reads the image. on: while none does, or where
    the image is not to be refined: with the gate at READ. off: with its gate off.
    """

    refining: Way
    on: Way
    off: Way

    @property
    def read(self) -> Way:
        """The way that is taken while the gate is at READ."""
        return self.on

    def when_on(self, image_is_read: bool) -> Way:
        """Returns the way that is taken while the gate is on."""
        return self.refining if image_is_read else self.on


def _always(way: Way) -> Ways:
    return Ways(way, way, way)


WAYS = {
    LayerKind.TEXT: _always(DecoderLayer.text_only),
    LayerKind.CROSS: _always(DecoderLayer.cross),
    LayerKind.READ: _always(DecoderLayer.full_for_text),
    LayerKind.SELF: Ways(
        DecoderLayer.full, DecoderLayer.full_for_text, DecoderLayer.text_only
    ),
}
