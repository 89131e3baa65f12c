"""The vision-language model: tower, projector, image stream, decoder, logits.

With the dense plan this is LLaVA-OneVision; with CROSS and SELF layers it is VISOR.
A prompt is begun (`begin`), run through layers (`run`) and read out (`logits`); what
varies between training, prefill and policies is in the arguments.
"""

from collections.abc import Collection, Sequence

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax import axes
from visor_jax.batch import Batch
from visor_jax.models.config import ENTRY, VLMConfig
from visor_jax.models.decoder.decoder import Decoder, DecoderState
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.models.reduced_image import reduced_image_tokens
from visor_jax.models.vision.compressor import Compressor
from visor_jax.models.vision.image_tokens import ImageTokens, gather_image_tokens
from visor_jax.models.vision.projector import Projector
from visor_jax.models.vision.siglip import VisionTower
from visor_jax.ops.gating import Gates
from visor_jax.ops.linear import Dense, flat_dot_general
from visor_jax.ops.logical_axes import constrained
from visor_jax.ops.masks import TokenTags


@flax.struct.dataclass
class VLMOutput:
    """logits: (B, T, W) float32, for text only.

    reading_logits: {layer: (B, V, classes)} of the auxiliary reading loss, {} unless
    asked for.
    """

    logits: Float[Array, "B T W"]
    reading_logits: dict[int, Float[Array, "B V classes"]]


class VLM(nn.Module):
    """The whole network; gates say which SELF layers run (see `visor_jax.budget`).

    reducer: drops image tokens on their way (`models.decoder.token_reducer`).
    """

    config: VLMConfig
    reducer: TokenReducer = KEEP_ALL

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        self.vision_tower = VisionTower(
            c.vision, dtype, c.remat == "layer", c.attention, c.scan_layers
        )
        grid = c.vision.patches_per_side if c.grid_embedding else None
        self.multi_modal_projector = Projector(
            *(c.decoder.width, dtype, c.projector_init_std, grid),
            c.projector_convolution,
        )
        if c.image_newline:
            init = nn.initializers.normal(c.decoder.width**-0.5)
            shape = (c.decoder.width,)
            self.image_newline = self.param("image_newline", init, shape, jnp.float32)
        if c.compressor is not None:
            self.token_compressor = Compressor(c.compressor, c.decoder.width, dtype)
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

        Raises:
          ValueError: for reading logits of an image that a token reducer shortens.
        """
        if reading and self.reducer != KEEP_ALL:
            raise ValueError(
                "The reading loss has a label for every image token: leave out the "
                "token reducer, or set reading_layers=()."
            )
        begun = begin_batch(self, batch)
        wanted = self.config.reading_layers if reading else ()
        done, streams = self.run(
            begun, gates, capture=[layer for layer in wanted if layer != ENTRY]
        )
        streams[ENTRY] = begun.image
        reading_logits = {layer: self._read(layer, streams[layer]) for layer in wanted}
        # The largest array of a training step.
        logits = constrained(self.logits(done.text), (axes.BATCH, None, axes.VOCAB))
        return VLMOutput(logits, reading_logits)

    def encode_image(
        self,
        pixels: Float[Array, "B C h w 3"],
        index: Int[Array, "B V *corners"],
        weights: Float[Array, "B V *corners"] | None = None,
        mask: Bool[Array, "B V"] | None = None,
        places: Int[Array, "B V"] | None = None,
    ) -> ImageTokens:
        """Returns the image tokens alone: what the tower and the projector make.

        They depend on no prompt: the same image gives the same tokens in all of them.

        Args:
          index, weights, places: see `Batch`. mask: False for padding, None if there is
            none.
        """
        newline = self.image_newline if self.config.image_newline else None
        tower, project = self.vision_tower, self.multi_modal_projector
        compress = self.token_compressor if self.config.compressor else None
        if compress is not None and self.is_initializing():
            compress.create()
        if not self.reducer.reads_crops:
            patches = project(tower.of_samples(pixels))
            hidden = gather_image_tokens(patches, newline, index, weights)
            return ImageTokens(hidden, places=places)
        layers = self.config.plan.num_layers
        length = self.reducer.image_lengths(index.shape[1], layers)[0]
        return reduced_image_tokens(
            *(tower, project, newline, self.reducer, length),
            *(pixels, index, weights, mask, compress),
        )

    def begin(
        self,
        tokens: Int[Array, "B T"],
        text: TokenTags,
        image_tokens: ImageTokens,
        image: TokenTags,
        *,
        remember: bool = False,
    ) -> DecoderState:
        """Returns prompts before the first layer.

        Args:
          image: of all image tokens that the prompts have.
          remember: whether layers are to keep their keys and values for a cache.
        """
        return DecoderState(
            text=self.language_model.embed(tokens, text),
            image=self._image_stream(image_tokens, image),
            caches=() if remember else None,
        )

    def run(
        self,
        state: DecoderState,
        gates: Gates | None,
        *,
        start: int = 0,
        stop: int | None = None,
        image_keys: Sequence[KeyValues | None] | None = None,
        capture: Collection[int] = (),
    ) -> tuple[DecoderState, dict[int, TokenStream]]:
        """Returns the state after layers start..stop-1, and captured image streams.

        See `Decoder.run`; `plan.trunk_length` parts the layers that run alike at every
        budget, with gates None, from the rest.
        """
        return self.language_model.run(
            state,
            gates,
            start=start,
            stop=stop,
            image_keys=image_keys,
            reducer=self.reducer,
            capture=capture,
        )

    def logits(
        self,
        text: TokenStream,
        indices: Int[Array, "*asked"] | None = None,
        rows: Int[Array, "X"] | None = None,
    ) -> Float[Array, "*asked W"]:
        """Returns float32 logits of the text stream that left the last layer.

        Those of a whole prompt cost about as much as the layers do.

        Args:
          indices: (B, R) tokens of each row; with rows: (X,), a token and its row each;
            None for all tokens.
        """
        hidden = text.hidden
        if rows is not None:
            if indices is None:
                raise ValueError("Rows alone say no token: give an index for each.")
            hidden = hidden[rows, indices][:, None]
        elif indices is not None:
            hidden = jnp.take_along_axis(hidden, indices[..., None], axis=1)
        logits = self._logits(hidden)
        return logits if rows is None else logits[:, 0]

    def image_keys(
        self, image_tokens: ImageTokens, image: TokenTags
    ) -> tuple[KeyValues | None, ...]:
        """Returns what the trunk makes of an image, whatever prompt it stands in.

        Its K/V in layers where they depend on no position; None in others, and in those
        behind a token reducer's first stage, where the image is another one.
        """
        stream = self._image_stream(image_tokens, image)
        trunk = self.config.plan.trunk_length
        first = min(self.reducer.stages, default=trunk)
        return tuple(
            self.language_model.image_keys(layer, stream) if layer < first else None
            for layer in range(trunk)
        )

    def decode(
        self,
        tokens: Int[Array, "B T"],
        tags: TokenTags,
        cache: KVCache,
        gates: Gates,
    ) -> tuple[Float[Array, "B T W"], KVCache]:
        """Returns the logits of new tokens and the cache that includes them.

        The cache needs free slots for them (`KVCache.with_capacity`).
        """
        cache = cache.with_tags(tags)
        new = DecoderState(self.language_model.embed(tokens, tags), cache.image, ())
        done, _ = self.language_model.run(new, gates, past=cache)
        length = cache.length + tokens.shape[1]
        return self.logits(done.text), cache.replace(layers=done.caches, length=length)

    def _image_stream(self, image_tokens: ImageTokens, tags: TokenTags) -> TokenStream:
        tags = image_tokens.tags(tags)
        stream = self.language_model.stream(image_tokens.hidden, tags)
        return stream.replace(places=image_tokens.places)

    def _logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T W"]:
        normed = self.language_model.norm(hidden)
        if not self.config.decoder.tie_embeddings:
            return self.lm_head(normed).astype(jnp.float32)
        table = self.language_model.embed_tokens.embedding.astype(normed.dtype)
        return flat_dot_general(normed, table.T, preferred_element_type=jnp.float32)

    def _read(self, layer: int, image: TokenStream) -> Float[Array, "B V classes"]:
        # Scale-free: the head must not depend on how large the stream has grown.
        hidden = image.hidden.astype(jnp.float32)
        rms = jnp.sqrt(jnp.mean(jnp.square(hidden), axis=-1, keepdims=True) + 1e-6)
        return self.reading_heads[_head_name(layer)](hidden / rms)


def _head_name(layer: int) -> str:
    return "entry" if layer == ENTRY else str(layer)


def text_tags(batch: Batch) -> TokenTags:
    """Returns the tags of a batch's text tokens."""
    return TokenTags(batch.text_positions, batch.text_segments, batch.text_mask)


def image_tags(batch: Batch) -> TokenTags:
    """Returns the tags of a batch's image tokens, which all segments see."""
    segments = jnp.zeros_like(batch.image_positions)
    return TokenTags(batch.image_positions, segments, batch.image_mask)


def begin_batch(model: VLM, batch: Batch, *, remember: bool = False) -> DecoderState:
    """Returns a batch before the first layer, from its pixels; inside `apply`."""
    image = model.encode_image(
        batch.pixels,
        batch.image_token_index,
        batch.image_token_weights,
        batch.image_mask,
        batch.image_places,
    )
    return model.begin(
        batch.tokens, text_tags(batch), image, image_tags(batch), remember=remember
    )


def run_trunk(model: VLM, batch: Batch, *, remember: bool = False) -> DecoderState:
    """Returns a batch after the layers that all budgets share; inside `apply`."""
    begun = begin_batch(model, batch, remember=remember)
    return model.run(begun, None, stop=model.config.plan.trunk_length)[0]


def run_rest(model: VLM, state: DecoderState, gates: Gates) -> DecoderState:
    """Returns what the trunk has left after all other layers; inside `apply`."""
    return model.run(state, gates, start=model.config.plan.trunk_length)[0]
