"""SparseVLM+: SparseVLM without recycling, by heads that look, less what is near.

Zhang et al., ICML 2025 (arXiv 2410.04417), version 2.0 of its code. Attention favours
image tokens whose rotary position is near the word's: every weight is divided by what
queries and keys of ones would give at that distance alone,

    bias(distance) = 2 / sqrt(H) * sum over the H / 2 rotary frequencies f of
                     cos(f * distance)

and of all heads those count by which raters pay most to the image. What is not kept is
dropped, and what stays keeps its rotary position.
"""

import dataclasses
from typing import ClassVar, Self

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.token_reduction.kept_tokens import taken
from visor_jax.token_reduction.select import top
from visor_jax.token_reduction.sparsevlm import SparseVLM, Step

# Published for 576 tokens, called 192; 238+108+60 is called 128, 66+34+20 is called 64.
_KEEP = (300, 200, 118)
# Of the heads, as 14 of 32.
_HEADS, _OF_HEADS = 14, 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseVLMPlus(SparseVLM):
    """Keeps `keep` tokens after each of the layers, and nothing of the others.

    layers, keep, average, llm_flops, network: see `sparsevlm`; keep is 300+200+118 by
    default. heads: how many count, None for 14 of 32. least_bias: where the bias of the
    distance is less than this share of its largest value, it is taken for that (it
    falls to 0 and below, where the authors say nothing).
    """

    position_rule: ClassVar = PositionRule.KEEP
    published_keep: ClassVar = _KEEP

    heads: int | None = None
    least_bias: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"heads={self.heads} must be at least 1.")
        if not 0 < self.least_bias <= 1:
            raise ValueError(
                f"least_bias={self.least_bias} must be a share above 0 and up to 1."
            )

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method with its layers and heads.

        Raises:
          ValueError: if the network has no such layer, or fewer heads.
        """
        count = config.decoder.num_heads
        heads = round(count * _HEADS / _OF_HEADS) if self.heads is None else self.heads
        if heads > count:
            raise ValueError(f"heads={heads}, but the network has {count}.")
        fitted = super().fitted(config)
        return dataclasses.replace(fitted, heads=max(1, heads))

    def step(self, tokens: int, keep: int) -> Step:
        """Returns what a stage that is to keep so many does to so many tokens."""
        return Step(max(0, min(keep, tokens - 1)), 0, 0)

    def weights(
        self,
        text: TokenStream,
        image: TokenStream,
        raters: Bool[Array, "B T"],
        look: TextLook,
    ) -> Float[Array, "B T V"]:
        """Returns what every word thinks of every token; raters alone count."""
        if self.heads is None:
            raise ValueError(
                f"{self} takes a share of the heads: say of which network with "
                "`fitted(config)`, or give heads."
            )
        every = jnp.arange(text.length, dtype=jnp.int32)
        weights = look.by_head(jnp.broadcast_to(every, raters.shape))
        paid = jnp.where(raters[:, None], weights.sum(axis=3), 0).sum(axis=2)
        best = top(paid, jnp.ones_like(paid, bool), jnp.full(len(paid), self.heads))
        mean = jnp.where(best[..., None, None], weights, 0).sum(axis=1) / self.heads
        return mean / self.bias(text, image)

    def bias(self, text: TokenStream, image: TokenStream) -> Float[Array, "B T V"]:
        """Returns the rotary logits of queries and keys of ones, none too small."""
        width = text.rotary.cos.shape[-1]
        tables = [
            jnp.concatenate([stream.rotary.cos, stream.rotary.sin], axis=-1)
            for stream in (text, image)
        ]
        logits = jnp.einsum("btr,bvr->btv", *tables, precision="highest")
        largest = width**0.5
        return jnp.maximum(logits / largest, self.least_bias * largest)

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the best tokens."""
        rows, most = self.steps_of_rows(self.stages.index(layer), look.first)
        best = top(look.notes.scores, image.tags.valid, rows.kept)
        return taken(image, best, most.kept)[0]

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the FLOPs of likeness, of every word's attention, and of the bias."""
        decoder, left = config.decoder, image_tokens
        total = 2 * image_tokens * decoder.width * text_tokens
        for kept in self.counts(image_tokens, knob):
            total += look_flops(
                decoder, rows=text_tokens, text_tokens=text_tokens, image_tokens=left
            )
            total += 2 * text_tokens * left * 2 * decoder.head_dim
            left = kept
        return total
