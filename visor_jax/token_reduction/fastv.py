"""FastV: after layer K only the tokens stay that the last text token looks at most.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024 (arXiv 2403.06764).
The map is that of layer K - 1, heads averaged, the row of the prompt's last token; what
stays before layer K keeps its rotary position. The choice is made once, in the prefill.
Every layer before K sees the whole image, so K / L of its cost remains.
"""

import dataclasses
from typing import ClassVar, Self

import jax
from jaxtyping import Array, Float

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.ops.masks import last_valid
from visor_jax.token_reduction.kept_tokens import taken
from visor_jax.token_reduction.layer_stages import (
    LayerStages,
    check_budget,
    counts_of_rows,
)
from visor_jax.token_reduction.select import top

_KEEP = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastV(LayerStages):
    """Keeps round(keep * image tokens), at least one, from `layer` on.

    layer: K, at least 1. keep: share; None for 0.5, or for what the budget says.
    average, llm_flops, network: see `layer_stages`.
    """

    position_rule: ClassVar = PositionRule.KEEP

    layer: int = 2
    keep: float | None = None
    average: float | None = None
    llm_flops: float | None = None
    network: VLMConfig | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(
                f"layer={self.layer} must be at least 1: before it some layer has to "
                "look at the image."
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be above 0 and at most 1.")
        check_budget(self, keep=self.keep)

    @property
    def stages(self) -> tuple[int, ...]:
        """The layer before which tokens go."""
        return (self.layer,)

    @property
    def noted(self) -> tuple[int, ...]:
        """The layer whose attention decides."""
        return (self.layer - 1,)

    def counts(self, image_tokens: int, knob: float | None) -> tuple[int, ...]:
        """Returns how many tokens are left; the knob is the share."""
        share = (_KEEP if self.keep is None else self.keep) if knob is None else knob
        return (min(image_tokens, max(1, round(image_tokens * share))),)

    def at_knob(self, knob: float) -> Self:
        """Returns the method that keeps this share."""
        return dataclasses.replace(self, keep=knob)

    def most(self, image_tokens: int) -> float:
        """Returns the share of everything."""
        return 1.0

    def note(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Float[Array, "B V"]:
        """Returns how much the last text token looks at each image token."""
        return jax.lax.stop_gradient(look(last_valid(text.tags)[:, None])[:, 0])

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the tokens that are looked at most."""
        counts = counts_of_rows(self, look.first, 0)
        chosen = top(look.notes, image.tags.valid, counts)
        return taken(image, chosen, self.length(look.first, 0))[0]

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the FLOPs of one row of attention."""
        return look_flops(
            config.decoder,
            rows=1,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
        )
