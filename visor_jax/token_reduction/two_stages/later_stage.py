"""A second stage, between decoder layers, for methods that work on crops.

The first stage drops patches before the projector and leaves T tokens; before one layer
of the decoder the text says which of these stay:

    keep=0.25, decoder_layer=12, remaining=1/3    of 729 tokens 182 in the layers 0-11,
                                                  60 in the layers 12-23

Positions are counted anew at both places. What stays has been chosen by a question, so
every question has a row of its own. A budget (`average`, `llm_flops`: see
`layer_stages`) says instead of `keep` how much stays, in the mean over all layers.
"""

import dataclasses
import math
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.models.vision.crop_features import CropFeatures
from visor_jax.ops.masks import last_valid
from visor_jax.token_reduction import solve
from visor_jax.token_reduction.crop_method import CropMethod, fraction
from visor_jax.token_reduction.kept_tokens import by_tokens, taken
from visor_jax.token_reduction.layer_stages import check_budget
from visor_jax.token_reduction.select import top

# Shares are exact to so many parts (`crop_method.fraction`).
_FINEST = 10_000


@dataclasses.dataclass(frozen=True)
class LaterStage(CropMethod):
    """Before `decoder_layer`, the tokens that the last text token looks at most stay.

    decoder_layer: None for half of the depth. remaining: share of the first stage's
    tokens that stays, rounded down, one at least. average, llm_flops, network: see
    `layer_stages`; what the first stage itself computes is in neither.
    """

    decoder_layer: int | None = None
    remaining: float = 1 / 3
    average: float | None = None
    llm_flops: float | None = None
    network: VLMConfig | None = dataclasses.field(default=None, repr=False)

    position_rule: ClassVar = PositionRule.RENUMBER
    reads_text: ClassVar = True

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("remaining")
        if self.decoder_layer is not None:
            self.check_positive("decoder_layer")
        is_said = self.keep != CropMethod.keep
        check_budget(self, keep=self.keep if is_said else None)

    @property
    def stages(self) -> tuple[int, ...]:
        """The layer before which tokens go."""
        if self.decoder_layer is None:
            raise ValueError(
                f"{self} stands at a share of a depth: say of which network with "
                "`fitted(config)`, or give decoder_layer."
            )
        return (self.decoder_layer,)

    def placed_in(self, depth: int) -> int:
        """Returns the layer that is meant in a network of this depth."""
        return max(1, depth // 2) if self.decoder_layer is None else self.decoder_layer

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method for a network of these sizes.

        Raises:
          ValueError: if the stage is not among its layers.
        """
        depth = config.plan.num_layers
        layer = self.placed_in(depth)
        if layer >= depth:
            raise ValueError(
                f"It drops tokens before layer {layer}, but the network's {depth} "
                f"layers are 0 to {depth - 1}."
            )
        method = dataclasses.replace(self, decoder_layer=layer)
        if self.average is None and self.llm_flops is None:
            return method
        return dataclasses.replace(method, network=config)

    def in_bucket(self, image_tokens: int) -> Self:
        """Returns the method with the `keep` that meets its budget in a bucket.

        Raises:
          ValueError: if none does, or if the method was not `fitted`.
        """
        if self.average is None and self.llm_flops is None:
            return self
        method = self.at_knob(solve.knob(self, image_tokens))
        if image_tokens and not method.most_of(image_tokens):
            raise ValueError(f"{self} leaves no token of {image_tokens}: give it more.")
        return method

    def at_knob(self, knob: float) -> Self:
        """Returns the method without a budget that keeps this share."""
        keep = min(1, max(1, math.ceil(knob * _FINEST - 1e-6)) / _FINEST)
        budget = {"average": None, "llm_flops": None, "network": None}
        return dataclasses.replace(self, keep=keep, **budget)

    def most(self, image_tokens: int) -> float:
        """Returns the share of everything."""
        return 1.0

    def left_of(self, tokens: int) -> int:
        """Returns how many of the first stage's tokens are left by the second."""
        return min(tokens, max(1, int(fraction(self.remaining) * tokens)))

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns how many image tokens each layer sees."""
        if self != (method := self.in_bucket(image_tokens)):
            return method.image_lengths(image_tokens, num_layers)
        first = super().image_lengths(image_tokens, num_layers)
        (stage,) = self.stages
        return tuple(
            length if layer < stage else self.left_of(length)
            for layer, length in enumerate(first)
        )

    def lengths_at(
        self, image_tokens: int, num_layers: int, knob: float | None
    ) -> tuple[int, ...]:
        """Returns the same for any position of the knob, the share that is kept."""
        method = self if knob is None else self.at_knob(knob)
        return method.image_lengths(image_tokens, num_layers)

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns what the first stage keeps, with the newlines that go with it."""
        method = self.in_bucket(crops.packing.valid.shape[1])
        return super(LaterStage, method).on_crops(crops)

    def scores(
        self, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Float[Array, "B V"]:
        """Returns how much each image token is worth to the text."""
        return look(last_valid(text.tags)[:, None])[:, 0]

    def rows_looked(self, text_tokens: int) -> int:
        """Returns how many text tokens look, of a prompt with so many."""
        return 1

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the tokens of highest score."""
        scores = jax.lax.stop_gradient(self.scores(text, image, look))
        table = [self.left_of(tokens) for tokens in range(image.length + 1)]
        chosen = top(scores, image.tags.valid, by_tokens(table, look.first))
        return taken(image, chosen, table[-1])[0]

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns the matrix products of the text's look at the image."""
        return self.flops_of(config, text_tokens, image_tokens, None)

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the same for any position of the knob."""
        lengths = self.lengths_at(image_tokens, config.plan.num_layers, knob)
        return look_flops(
            config.decoder,
            rows=self.rows_looked(text_tokens),
            text_tokens=text_tokens,
            image_tokens=lengths[0],
        )


def behind_image(text: TokenStream, image: TokenStream) -> Array:
    """Returns (B, T) the words behind the image; where there are none, the last one."""
    shown = jnp.where(image.tags.valid, image.tags.order, -1)
    words = text.tags.valid & (text.tags.order > shown.max(axis=1, keepdims=True))
    last = jnp.arange(text.length) == last_valid(text.tags)[:, None]
    return jnp.where(words.any(axis=1, keepdims=True), words, last)
