"""The decoder: one loop over layers that carries two streams.

    text, image = embeddings, projected patches
    for each layer:  TEXT   text <- layer(text)
                     CROSS  text <- layer(text + adapter(text, image))
                     READ   text <- layer([image; text]), the image stays
                     SELF   on: both <- layer([image; text]); off: as TEXT; or as READ

With every layer SELF and every gate on this is the unmodified Qwen of a LLaVA model.
`run` goes through any span of layers, so that a policy can decide after the trunk that
all budgets share, and analyses can look at the streams between layers. Training,
prefill, prefill of text alone and decoding are the same loop: they differ in what is at
hand of earlier tokens, and in what is remembered.
"""

from collections.abc import Collection, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax import axes
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.decoder_layer import WAYS, DecoderLayer, Past
from visor_jax.models.decoder.decoder_state import (
    DecoderState,
    past_of_layer,
    reduced,
    with_places,
)
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache
from visor_jax.models.decoder.qwen import RMSNorm
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.models.decoder.training_layers import through_layer, through_repeated
from visor_jax.models.stacked_layers import is_scanned
from visor_jax.ops.gating import Gate, Gates, as_sequence, gated, is_static
from visor_jax.ops.logical_axes import constrained
from visor_jax.ops.masks import TokenTags
from visor_jax.ops.rope import rotary_table


class Decoder(nn.Module):
    """Qwen with VISOR's layer plan. Parameter names follow published checkpoints."""

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
                c.decoder, c.adapter if kind.has_adapter else None, dtype, c.attention
            )
            for kind in c.plan.kinds
        ]
        self.ways = tuple(WAYS[kind] for kind in c.plan.kinds)
        self.norm = RMSNorm(c.decoder.norm_eps)

    def embed(self, tokens: Int[Array, "B T"], tags: TokenTags) -> TokenStream:
        """Returns the text stream before the first layer (Qwen does not scale it)."""
        # Every device looks up its columns of the table; nobody gathers the table.
        tokens = constrained(tokens, (axes.LOOKUP_BATCH, None))
        hidden = self.embed_tokens(tokens)
        hidden = constrained(hidden, (axes.LOOKUP_BATCH, None, axes.EMBED))
        return self.stream(hidden, tags)

    def stream(self, hidden: Float[Array, "B T D"], tags: TokenTags) -> TokenStream:
        """Returns a stream of these hidden states with the decoder's rotary table."""
        c = self.config.decoder
        return TokenStream.create(
            hidden, tags, head_dim=c.head_dim, rope_theta=c.rope_theta
        )

    def image_keys(self, layer: int, image: TokenStream) -> KeyValues | None:
        """Returns the image's K/V in a layer where they depend on no position."""
        return self.layers[layer].image_keys(image)

    def unrefined_keys(self, layer: int, image: TokenStream) -> KeyValues:
        """Returns the image's K/V in a layer that sees it and does not refine it."""
        return self.layers[layer].unrefined_keys(image)

    def look_across(
        self,
        layer: int,
        text: TokenStream,
        image: TokenStream,
        rows: Int[Array, "B R"],
    ) -> Float[Array, "B R V"]:
        """Returns how a CROSS layer's adapter looks. See `CrossAttention.look`."""
        return self.layers[layer].cross_attention.look(text, image, rows)

    def run(
        self,
        state: DecoderState,
        gates: Gates | None,
        *,
        start: int = 0,
        stop: int | None = None,
        past: KVCache | None = None,
        image_keys: Sequence[KeyValues | None] | None = None,
        reducer: TokenReducer = KEEP_ALL,
        capture: Collection[int] = (),
    ) -> tuple[DecoderState, dict[int, TokenStream]]:
        """Runs layers start..stop-1.

        Args:
          gates: one per SELF layer of the whole plan, in any form of `ops.gating`; None
            for layers that no budget switches off.
          past: the cache of all earlier text, while decoding; with the tags of the new
            tokens (`KVCache.with_tags`).
          image_keys: the image's K/V in these layers, None where a layer has none or is
            to make them of the image stream. Where they are given, no layer refines the
            image: what a layer makes of it depends on no text behind it.
          reducer: drops image tokens before some layers.
          capture: layers whose image stream is wanted as the layer leaves it; this
            counts as a reader, so a layer is not spared the work.

        Returns:
          State, {captured layer: image stream after it}.

        Raises:
          ValueError: for traced gates where layers remember, since what they hold
            depends on the budget; without gates if a budget switches one of the layers.
        """
        stop = self.config.plan.num_layers if stop is None else stop
        gate_of = self._gate_of_layer(gates, start, stop, state.caches is not None)
        captured = {}
        steps = any(start <= stage < stop for stage in reducer.stages)
        if past is None and image_keys is None and not capture and not steps:
            state, start = self._through_repeated(state, gate_of, start, stop)
        for index in range(start, stop):
            if past is None:
                layer, c = self.layers[index], self.config.decoder
                state = reduced(index, state, reducer, layer, c)
            is_read = (past is None and image_keys is None) and (
                self.config.plan.image_is_read_after(index, gate_of.values())
                or max(capture, default=-1) >= index
            )
            gate = gate_of.get(index, True)
            if state.caches is None:
                layer, kind = self.layers[index], self.config.plan.kinds[index]
                state = through_layer(
                    *(layer, kind, gate, state),
                    is_read=is_read,
                    remat=self.config.remat,
                )
            else:
                keys = None if image_keys is None else image_keys[index - start]
                known = past_of_layer(index, state, past, keys)
                state = self._remembered(index, gate, state, is_read, known, past)
                state = with_places(index, state, past, reducer)
            if index in capture:
                captured[index] = state.image
        return state, captured

    def _remembered(
        self,
        index: int,
        gate: bool,
        state: DecoderState,
        is_read: bool,
        known: Past,
        past: KVCache | None,
    ) -> DecoderState:
        """Returns the state behind a layer, with what the layer remembers."""
        ways = self.ways[index]
        text = self._at_positions(index, state.text, past)
        operands = (self.layers[index], text, state.image, known)
        on, off = ways.when_on(is_read), ways.off
        text, image, new = gated(gate, on, off, *operands, read=ways.read)
        return state.replace(text=text, image=image, caches=(*state.caches, new))

    def _at_positions(
        self, index: int, text: TokenStream, past: KVCache | None
    ) -> TokenStream:
        """Returns new tokens at the rotary positions that they have in this layer."""
        if past is None or past.layers[index].shift is None:
            return text
        c = self.config.decoder
        positions = text.tags.order - past.layers[index].shift[:, None]
        return text.replace(rotary=rotary_table(positions, c.head_dim, c.rope_theta))

    def _through_repeated(
        self, state: DecoderState, gate_of: dict[int, Gate], start: int, stop: int
    ) -> tuple[DecoderState, int]:
        """Returns the state behind the layers that are scanned, and which is next.

        Those of a training step: where layers remember, budgets are static and each
        layer holds something else.
        """
        c = self.config
        static = any(is_static(gate) for gate in gate_of.values())
        unrolled = static or state.caches is not None or self.is_initializing()
        if unrolled or not is_scanned(c.scan_layers):
            return state, start
        repeated = c.plan.repeated(start, stop)
        if repeated is None:
            return state, start
        dtype = jnp.dtype(c.compute_dtype)
        state = through_repeated(
            *(self.layers, repeated, gate_of, state), dtype=dtype, remat=c.remat
        )
        return state, repeated.stop

    def _gate_of_layer(
        self, gates: Gates | None, start: int, stop: int, remembers: bool
    ) -> dict[int, Gate]:
        layers = self.config.plan.self_layers
        if gates is None:
            switched = [i for i in layers if start <= i < stop]
            if switched:
                raise ValueError(
                    f"A budget switches the layers {switched} on or off: give gates."
                )
            return dict.fromkeys(layers, False)
        if remembers and not is_static(gates):
            raise ValueError(
                "A cache needs static gates (Python bools, one per SELF layer): what "
                "it holds depends on the budget. Group samples by budget."
            )
        return self.config.plan.gate_of_layer(as_sequence(gates, len(layers)))
