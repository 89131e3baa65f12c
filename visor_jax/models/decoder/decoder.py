"""The decoder: a loop over layers that carries two streams.

    text, image = embeddings, projected patches
    for each layer:  TEXT   text <- layer(text)
                     CROSS  text <- layer(text + adapter(text, image))
                     SELF   gate open: both <- layer([image; text]); shut: as TEXT

With every layer SELF and every gate open this is the unmodified Qwen2 of a LLaVA model.
`run_layers` runs any span of layers, so that a policy can decide after the prefix that
all budgets share, and analyses can look at the streams between layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax import axes
from visor_jax.layer_plan import LayerKind
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.decoder_layer import DecoderLayer, Past
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache, LayerCache
from visor_jax.models.decoder.layer_ways import WAYS, Way
from visor_jax.models.decoder.qwen import RMSNorm
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.gating import Gate, Gates, as_sequence, gated, is_static
from visor_jax.ops.masks import TokenTags


@flax.struct.dataclass
class Prefix:
    """A prompt after its first layers: both streams, and what those layers remember."""

    text: TokenStream
    image: TokenStream
    caches: tuple[LayerCache, ...]


# Kinds of layers that the backward pass computes again, by policy.
_REMAT = {
    "none": (),
    "gated": (LayerKind.SELF,),
    "layer": tuple(LayerKind),
}


class Decoder(nn.Module):
    """Qwen2 with VISOR's layer plan. Parameter names follow published checkpoints."""

    config: VLMConfig

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        self.embed_tokens = nn.Embed(
            c.decoder.vocab_size,
            c.decoder.width,
            dtype=dtype,
            embedding_init=nn.initializers.normal(c.decoder.embedding_init_std),
        )
        self.layers = [
            DecoderLayer(
                c.decoder,
                c.adapter if kind is LayerKind.CROSS else None,
                dtype,
                c.attention,
            )
            for kind in c.plan.kinds
        ]
        self.ways = tuple(WAYS[kind] for kind in c.plan.kinds)
        self.norm = RMSNorm(c.decoder.norm_eps)

    def embed(self, tokens: Int[Array, "B T"], tags: TokenTags) -> TokenStream:
        """Returns the text stream before the first layer (Qwen2 does not scale it)."""
        # Every device looks up its columns of the table; nobody gathers the table.
        tokens = nn.with_logical_constraint(tokens, (axes.LOOKUP_BATCH, None))
        hidden = self.embed_tokens(tokens)
        hidden = nn.with_logical_constraint(
            hidden, (axes.LOOKUP_BATCH, None, axes.EMBED)
        )
        return self.stream(hidden, tags)

    def stream(self, hidden: Float[Array, "B T D"], tags: TokenTags) -> TokenStream:
        """Returns a stream of these hidden states with the decoder's rotary table."""
        c = self.config.decoder
        return TokenStream.create(
            hidden, tags, head_dim=c.head_dim, rope_theta=c.rope_theta
        )

    def run_layers(
        self,
        text: TokenStream,
        image: TokenStream,
        gates: Gates,
        *,
        start: int = 0,
        stop: int | None = None,
        capture: Sequence[int] = (),
    ) -> tuple[TokenStream, TokenStream, dict[int, TokenStream]]:
        """Runs layers start..stop-1 over both streams.

        Args:
          gates: one per SELF layer of the whole plan, in any form of `ops.gating`.
          capture: layers whose image stream is wanted as the layer leaves it; this
            counts as a reader, so a layer is not spared the work.

        Returns:
          Text stream, image stream, {captured layer: image stream after it}.
        """
        gate_of = self._gate_of_layer(gates)
        stop = self.config.plan.num_layers if stop is None else stop
        captured = {}
        for index in range(start, stop):
            layer, gate = self.layers[index], gate_of.get(index, True)
            read = (
                self._image_is_read(index, gate_of) or max(capture, default=-1) >= index
            )
            ways = self.ways[index]
            again = self.config.plan.kinds[index] in _REMAT[self.config.remat]
            on = _streams_of(ways.choose(True, read), again)
            shut = _streams_of(ways.shut, again)
            text, image = gated(gate, on, shut, layer, text, image)
            if index in capture:
                captured[index] = image
        return text, image, captured

    def prefix(self, text: TokenStream, image: TokenStream) -> Prefix:
        """Returns both streams after the layers that run alike at every budget."""
        stop = self.config.plan.prefix_length
        shut = (False,) * len(self.config.plan.self_layers)
        return self._prefill_layers(Prefix(text, image, ()), shut, stop)

    def prefix_keys(self, image: TokenStream) -> tuple[KeyValues | None, ...]:
        """Returns the image's K/V in the layers that run alike at every budget.

        They depend on nothing but the image: it passes these layers as it is.
        """
        layers = self.layers[: self.config.plan.prefix_length]
        return tuple(layer.image_keys(image) for layer in layers)

    def prefix_of_text(
        self,
        text: TokenStream,
        image: TokenStream,
        images: Sequence[KeyValues | None],
    ) -> Prefix:
        """Returns what `prefix` does, from the image's `prefix_keys`."""
        shut = (False,) * len(self.config.plan.self_layers)
        text, caches = self._prefill_text(text, image.tags, (), images, shut)
        return Prefix(text, image, caches)

    def prefill_rest(self, prefix: Prefix, gates: Gates) -> tuple[TokenStream, KVCache]:
        """Runs the other layers; returns the text stream and a cache of its length.

        Raises:
          ValueError: for traced gates; what a cache holds depends on the budget.
        """
        done = self._prefill_layers(prefix, gates, self.config.plan.num_layers)
        length = jnp.asarray(done.text.length, jnp.int32)
        tags = (done.text.tags, done.image.tags)
        return done.text, KVCache(done.caches, *tags, length)

    def _prefill_layers(self, prefix: Prefix, gates: Gates, stop: int) -> Prefix:
        """Runs the layers from where the prefix ends up to `stop`."""
        gate_of = self._static_gate_of_layer(gates)
        text, image, caches = prefix.text, prefix.image, list(prefix.caches)
        for index in range(len(caches), stop):
            read = self._image_is_read(index, gate_of)
            way = self.ways[index].choose(gate_of.get(index, True), read)
            text, image, cache = way(self.layers[index], text, image)
            caches.append(cache)
        return Prefix(text, image, tuple(caches))

    def prefill_text(
        self,
        prefix: Prefix,
        images: Sequence[KeyValues | None],
        gates: Gates,
    ) -> tuple[TokenStream, KVCache]:
        """Returns what `prefill_rest` does, from image K/V that are at hand already.

        The image goes through no layer again. What a layer makes of it depends on no
        text behind it: K/V serve every prompt that begins alike up to its end.

        Args:
          images: of the layers behind the prefix, as in the cache of such a prompt.

        Raises:
          ValueError: for traced gates, as in `prefill_rest`.
        """
        image = prefix.image.tags
        text, layers = self._prefill_text(
            prefix.text, image, prefix.caches, images, gates
        )
        length = jnp.asarray(text.length, jnp.int32)
        return text, KVCache(layers, text.tags, image, length)

    def _prefill_text(
        self,
        text: TokenStream,
        image: TokenTags,
        done: Sequence[LayerCache],
        images: Sequence[KeyValues | None],
        gates: Gates,
    ) -> tuple[TokenStream, tuple[LayerCache, ...]]:
        """Runs text through the layers behind `done`, whose image K/V are given."""
        config = self.config.decoder
        shape = (*text.hidden.shape[:2], config.num_kv_heads, config.head_dim)
        zeros = jnp.zeros(shape, text.hidden.dtype)
        empty = (LayerCache(KeyValues(zeros, zeros), keys) for keys in images)
        cache = KVCache((*done, *empty), text.tags, image, jnp.int32(0))
        return self._text_layers(text, cache, gates, start=len(done))

    def decode(
        self, text: TokenStream, cache: KVCache, gates: Gates
    ) -> tuple[TokenStream, KVCache]:
        """Runs all layers on new text tokens against the cache.

        The cache needs free slots for them (`KVCache.with_capacity`). The image is read
        only where a layer cached it.

        Raises:
          ValueError: for traced gates, as in `prefill`.
        """
        cache = cache.with_tags(text.tags)
        text, layers = self._text_layers(text, cache, gates)
        length = cache.length + text.length
        return text, cache.replace(layers=layers, length=length)

    def _text_layers(
        self, text: TokenStream, cache: KVCache, gates: Gates, *, start: int = 0
    ) -> tuple[TokenStream, tuple[LayerCache, ...]]:
        """Runs layers from `start` on over new text, whose tags the cache has."""
        gate_of = self._static_gate_of_layer(gates)
        layers = list(cache.layers)
        for index in range(start, len(layers)):
            past = Past(layers[index], cache.text, cache.image, cache.length)
            # The image was refined for good when the prompt was read.
            way = self.ways[index].choose(gate_of.get(index, True), False)
            text, _, layers[index] = way(self.layers[index], text, None, past)
        return text, tuple(layers)

    def _image_is_read(self, index: int, gate_of: dict[int, Gate]) -> bool:
        return self.config.plan.image_is_read_after(index, gate_of.values())

    def _gate_of_layer(self, gates: Gates) -> dict[int, Gate]:
        layers = self.config.plan.self_layers
        return dict(zip(layers, as_sequence(gates, len(layers)), strict=True))

    def _static_gate_of_layer(self, gates: Gates) -> dict[int, Gate]:
        if not is_static(gates):
            raise ValueError(
                "A cache needs static gates (Python bools, one per SELF layer): what "
                "it holds depends on the budget. Group samples by budget."
            )
        return self._gate_of_layer(gates)


def _streams_of(
    way: Way, again: bool
) -> Callable[..., tuple[TokenStream, TokenStream]]:
    """Returns a function that runs a layer this way and drops what it would cache.

    The two branches of a gate must return alike, and they cache different things.

    Args:
      again: whether the backward pass computes the layer again.
    """

    def run(layer: DecoderLayer, *streams: TokenStream) -> Any:
        text, image, _ = way(layer, *streams)
        return text, image

    return nn.remat(run) if again else run
