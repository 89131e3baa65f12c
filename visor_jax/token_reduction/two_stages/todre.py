"""ToDRE, both stages: diverse patches, which all go once nobody looks at them.

Source: "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient
Large Vision-Language Models", arXiv 2505.18757.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import TextLook
from visor_jax.ops.attention_weights import BLOCK
from visor_jax.token_reduction.crops.todre import ToDRE
from visor_jax.token_reduction.two_stages.later_stage import LaterStage, behind_image


@dataclasses.dataclass(frozen=True)
class ToDREBothStages(LaterStage, ToDRE):
    """Diverse patches (`todre_stage1`); late in the decoder all of them go, or none.

    decoder_layer: None for 7/8 of the depth. threshold: all tokens go if in that layer
    both shares of attention are below it: what words behind the image pay to the image,
    and what the image pays to the text before it, each in the mean. No published value
    was at hand. Each prompt decides for itself while the shapes of a batch stand fast:
    what goes is masked, and neither FLOPs nor bytes of the cache get fewer. Looking
    back from all image tokens costs what their attention in one layer costs.

    Source: arXiv 2505.18757.
    """

    remaining: float = dataclasses.field(default=1.0, init=False, repr=False)
    threshold: float = 0.05

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("threshold")

    def placed_in(self, depth: int) -> int:
        """Returns the layer that is meant in a network of this depth."""
        late = max(1, 7 * depth // 8)
        return late if self.decoder_layer is None else self.decoder_layer

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns all tokens, none of them there where nobody looks any more."""
        goes = self.goes(text, image, look)
        valid = image.tags.valid & ~goes[:, None]
        return image.replace(tags=image.tags.replace(valid=valid))

    def goes(
        self, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Bool[Array, "B"]:
        """Returns whether both shares are below the threshold."""
        words, shown = behind_image(text, image), image.tags.valid
        every = jnp.arange(text.length, dtype=jnp.int32)
        to_image = look(jnp.broadcast_to(every, words.shape)).sum(axis=2)
        return jnp.logical_and(
            _mean(to_image, words) < self.threshold,
            _mean(look.back(), shown) < self.threshold,
        )

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the matrix products of looking from both sides."""
        lengths = self.lengths_at(image_tokens, config.plan.num_layers, knob)
        lengths = {"text_tokens": text_tokens, "image_tokens": lengths[0]}
        rows = lengths["image_tokens"]
        there = look_flops(config.decoder, rows=text_tokens, **lengths)
        back = look_flops(config.decoder, rows=rows, **lengths)
        # Zeros fill up the last block of rows: scores of them are made as well.
        filling = -rows % min(BLOCK, max(rows, 1))
        more = 2 * filling * config.decoder.heads_width * (text_tokens + rows)
        return there + back + more


def _mean(values: Array, counted: Bool[Array, "B T"]) -> Array:
    total = jnp.where(counted, values, 0).sum(axis=1)
    return total / jnp.maximum(counted.sum(axis=1), 1)
