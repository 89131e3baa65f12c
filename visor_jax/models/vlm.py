"""The vision-language model: tower, projector, image stream, decoder, logits.

With the dense plan this is LLaVA-OneVision; with CROSS and SELF layers it is VISOR.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax import axes
from visor_jax.batch import Batch
from visor_jax.models.config import ENTRY, VLMConfig
from visor_jax.models.decoder.decoder import Decoder, Prefix
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.vision.image_tokens import gather_image_tokens
from visor_jax.models.vision.projector import Projector
from visor_jax.models.vision.siglip import VisionTower
from visor_jax.ops.gating import Gates
from visor_jax.ops.linear import Dense, flat_dot_general
from visor_jax.ops.masks import TokenTags, last_valid


@flax.struct.dataclass
class VLMOutput:
    """logits: (B, T, W) float32, for text only.

    reading_logits: {layer: (B, V, classes)} of the auxiliary reading loss, {} unless
    asked for.
    """

    logits: Float[Array, "B T W"]
    reading_logits: dict[int, Float[Array, "B V classes"]]


class VLM(nn.Module):
    """The whole network; gates say which SELF layers run (see `visor_jax.budget`)."""

    config: VLMConfig

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        self.vision_tower = VisionTower(
            c.vision, dtype, c.remat == "layer", c.attention
        )
        grid = c.vision.patches_per_side if c.grid_embedding else None
        self.multi_modal_projector = Projector(
            c.decoder.width, dtype, c.projector_init_std, grid
        )
        if c.image_newline:
            init = nn.initializers.normal(c.decoder.width**-0.5)
            shape = (c.decoder.width,)
            self.image_newline = self.param("image_newline", init, shape, jnp.float32)
        self.language_model = Decoder(c)
        if not c.decoder.tie_embeddings:
            self.lm_head = Dense(
                c.decoder.vocab_size, c.decoder.init_std, use_bias=False, dtype=dtype
            )
        self.reading_heads = {
            _head_name(layer): Dense(c.reading_classes, c.decoder.init_std)
            for layer in c.reading_layers
        }

    def __call__(
        self, batch: Batch, gates: Gates, *, reading: bool = False
    ) -> VLMOutput:
        """Returns the `VLMOutput` of a batch.

        Args:
          gates: Python bools, one per SELF layer, or one traced bool (S,).
          reading: also return the auxiliary reading logits (training only).
        """
        text, image = self.embed_text(batch), self.encode_image(batch)
        wanted = self.config.reading_layers if reading else ()
        text, _, streams = self.language_model.run_layers(
            text, image, gates, capture=[n for n in wanted if n != ENTRY]
        )
        streams[ENTRY] = image
        reading_logits = {layer: self._read(layer, streams[layer]) for layer in wanted}
        # The largest array of a training step.
        logits = nn.with_logical_constraint(
            self.logits(text), (axes.BATCH, None, axes.VOCAB)
        )
        return VLMOutput(logits, reading_logits)

    def vision_features(
        self, pixels: Float[Array, "B C h w 3"]
    ) -> Float[Array, "B C P E"]:
        """Returns the tower's features of every patch of every crop."""
        return self.vision_tower.of_samples(pixels)

    def encode_image(self, batch: Batch) -> TokenStream:
        """Returns the image stream that enters the decoder."""
        tokens = self.image_tokens(
            batch.pixels, batch.image_token_index, batch.image_token_weights
        )
        segments = jnp.zeros_like(batch.image_positions)
        tags = TokenTags(batch.image_positions, segments, batch.image_mask)
        return self.language_model.stream(tokens, tags)

    def image_tokens(
        self,
        pixels: Float[Array, "B C h w 3"],
        index: Int[Array, "B V *corners"],
        weights: Float[Array, "B V *corners"] | None = None,
    ) -> Float[Array, "B V D"]:
        """Returns the image tokens alone: what the tower and the projector make.

        They depend on no prompt: the same image gives the same tokens in all of them.
        """
        patches = self.multi_modal_projector(self.vision_features(pixels))
        newline = self.image_newline if self.config.image_newline else None
        return gather_image_tokens(patches, newline, index, weights)

    def embed_text(self, batch: Batch) -> TokenStream:
        """Returns the text stream that enters the decoder."""
        tags = TokenTags(batch.text_positions, batch.text_segments, batch.text_mask)
        return self.language_model.embed(batch.tokens, tags)

    def logits(self, text: TokenStream) -> Float[Array, "B T W"]:
        """Returns float32 logits of the text stream that left the last layer."""
        normed = self.language_model.norm(text.hidden)
        if not self.config.decoder.tie_embeddings:
            return self.lm_head(normed).astype(jnp.float32)
        table = self.language_model.embed_tokens.embedding.astype(normed.dtype)
        return flat_dot_general(normed, table.T, preferred_element_type=jnp.float32)

    def prefix(self, batch: Batch) -> Prefix:
        """Returns the prompts after the layers that run alike at every budget."""
        text, image = self.embed_text(batch), self.encode_image(batch)
        return self.language_model.prefix(text, image)

    def prefix_keys(
        self, image_tokens: Float[Array, "B V D"], image: TokenTags
    ) -> tuple[KeyValues | None, ...]:
        """Returns what the layers that run alike at every budget make of an image.

        Its K/V, None in layers that see none; like its tokens they depend on no prompt.
        """
        return self.language_model.prefix_keys(
            self.language_model.stream(image_tokens, image)
        )

    def prefix_of_tokens(
        self,
        tokens: Int[Array, "B T"],
        text: TokenTags,
        image_tokens: Float[Array, "B V D"],
        image: TokenTags,
        keys: tuple[KeyValues | None, ...],
    ) -> Prefix:
        """Returns what `prefix` does, from image tokens and K/V that are at hand.

        keys: the image's `prefix_keys`.
        """
        return self.language_model.prefix_of_text(
            self.language_model.embed(tokens, text),
            self.language_model.stream(image_tokens, image),
            keys,
        )

    def prefill_rest(
        self, prefix: Prefix, gates: Gates, slots: Int[Array, "B R"] | None = None
    ) -> tuple[Float[Array, "B R W"], KVCache]:
        """Returns logits at R text slots, and the cache that decoding starts from.

        Args:
          slots: where logits are wanted; None for each row's last valid token (R = 1).
            Over a real vocabulary, those of the whole prompt would cost about as much
            as the layers do.
        """
        text, cache = self.language_model.prefill_rest(prefix, gates)
        if slots is None:
            slots = last_valid(text.tags)[:, None]
        hidden = jnp.take_along_axis(text.hidden, slots[..., None], axis=1)
        return self.logits(text.replace(hidden=hidden)), cache

    def prefill_rest_at(
        self,
        prefix: Prefix,
        gates: Gates,
        rows: Int[Array, "Q"],
        slots: Int[Array, "Q"],
    ) -> tuple[Float[Array, "Q W"], KVCache]:
        """Returns what `prefill_rest` does, with logits at Q pairs of row and slot.

        For rows that pack unlike numbers of questions: one pair for each question.
        """
        text, cache = self.language_model.prefill_rest(prefix, gates)
        return self._logits_at(text, rows, slots), cache

    def prefill_text_at(
        self,
        prefix: Prefix,
        images: tuple[KeyValues | None, ...],
        gates: Gates,
        rows: Int[Array, "Q"],
        slots: Int[Array, "Q"],
    ) -> tuple[Float[Array, "Q W"], KVCache]:
        """Returns what `prefill_rest_at` does, from image K/V that are at hand already.

        images: see `Decoder.prefill_text`.
        """
        text, cache = self.language_model.prefill_text(prefix, images, gates)
        return self._logits_at(text, rows, slots), cache

    def logits_after(self, prefix: Prefix, gates: Gates) -> Float[Array, "B T W"]:
        """Returns the logits of all text; gates of any form, and nothing is cached."""
        text, _, _ = self.language_model.run_layers(
            prefix.text, prefix.image, gates, start=self.config.plan.prefix_length
        )
        return self.logits(text)

    def prefill(
        self, batch: Batch, gates: Gates, slots: Int[Array, "B R"] | None = None
    ) -> tuple[Float[Array, "B R W"], KVCache]:
        """Returns what `prefill_rest` does, from the pixels on."""
        return self.prefill_rest(self.prefix(batch), gates, slots)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        tags: TokenTags,
        cache: KVCache,
        gates: Gates,
    ) -> tuple[Float[Array, "B T W"], KVCache]:
        """Returns the logits of new tokens and the cache that includes them."""
        text = self.language_model.embed(tokens, tags)
        text, cache = self.language_model.decode(text, cache, gates)
        return self.logits(text), cache

    def _logits_at(
        self, text: TokenStream, rows: Int[Array, "Q"], slots: Int[Array, "Q"]
    ) -> Float[Array, "Q W"]:
        asked = text.replace(hidden=text.hidden[rows, slots][:, None])
        return self.logits(asked)[:, 0]

    def _read(self, layer: int, image: TokenStream) -> Float[Array, "B V classes"]:
        # Scale-free: the head must not depend on how large the stream has grown.
        hidden = image.hidden.astype(jnp.float32)
        rms = jnp.sqrt(jnp.mean(jnp.square(hidden), axis=-1, keepdims=True) + 1e-6)
        return self.reading_heads[_head_name(layer)](hidden / rms)


def _head_name(layer: int) -> str:
    return "entry" if layer == ENTRY else str(layer)
