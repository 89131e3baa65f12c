"""PyramidDrop: fewer image tokens from stage to stage, fewest in the last layers.

Xing et al., CVPR 2025 (arXiv 2410.17247). Before each stage's first layer the last text
token looks with that layer's own queries and keys, heads averaged; the tokens that it
looks at most stay, a share of how many there were at first. From there on rotary
positions are counted anew, in decoding as well. The choice has no gradient. With the
defaults a quarter of the layers each see 1, 1/2, 1/4 and 1/8: 270 of 576 in the mean.
"""

import dataclasses
from typing import ClassVar, Self

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.ops.masks import last_valid
from visor_jax.token_reduction.kept_tokens import taken
from visor_jax.token_reduction.layer_stages import (
    PlacedStages,
    check_ascending,
    check_budget,
    check_shares,
    counts_of_rows,
)
from visor_jax.token_reduction.select import top

_RATIOS = (0.5, 0.25, 0.125)
# Of 32: at quarters of the depth.
_LAYERS, _DEPTH = (8, 16, 24), 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyramidDrop(PlacedStages):
    """Keeps int(ratio * image tokens), at least one, from each of the layers on.

    layers: None for quarters of the network's depth. ratios: one for each layer, None
    for 1/2, 1/4, 1/8, or for what the budget says: then they are r, r^2, r^3, ...
    average, llm_flops, network: see `layer_stages`.
    """

    position_rule: ClassVar = PositionRule.RENUMBER
    published: ClassVar = _LAYERS
    depth: ClassVar = _DEPTH
    places: ClassVar = "quarters"

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None
    average: float | None = None
    llm_flops: float | None = None
    network: VLMConfig | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.layers is not None:
            check_ascending("layers", self.layers, 1)
        if self.ratios is not None:
            check_shares("ratios", self.ratios)
        check_budget(self, ratios=self.ratios)
        layers = _LAYERS if self.layers is None else self.layers
        ratios = _RATIOS if self.ratios is None else self.ratios
        is_solved = self.average is not None or self.llm_flops is not None
        if len(layers) != len(ratios) and not is_solved:
            raise ValueError(
                f"layers={layers} and ratios={ratios} must be as many: one ratio for "
                "each layer."
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """The layers before which tokens go."""
        return self.placed

    def counts(self, image_tokens: int, knob: float | None) -> tuple[int, ...]:
        """Returns how many tokens are left; the knob is the ratio between stages."""
        method = self if knob is None else self.at_knob(knob)
        ratios = method.ratios or _RATIOS
        least = min(image_tokens, 1)
        return tuple(max(least, int(image_tokens * ratio)) for ratio in ratios)

    def at_knob(self, knob: float) -> Self:
        """Returns the method with this ratio from stage to stage."""
        ratios = tuple(knob ** (i + 1) for i in range(len(self.stages)))
        return dataclasses.replace(
            self, ratios=ratios, average=None, llm_flops=None, network=None
        )

    def most(self, image_tokens: int) -> float:
        """Returns the ratio at which every stage keeps everything."""
        return 1.0

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the tokens that the last text token looks at most."""
        stage = self.stages.index(layer)
        scores = look(last_valid(text.tags)[:, None])[:, 0]
        counts = counts_of_rows(self, look.first, stage)
        chosen = top(scores, image.tags.valid, counts)
        return taken(image, chosen, self.length(look.first, stage))[0]

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the FLOPs of one row of attention at each stage."""
        before = (image_tokens, *self.counts(image_tokens, knob)[:-1])
        return sum(
            look_flops(
                config.decoder, rows=1, text_tokens=text_tokens, image_tokens=tokens
            )
            for tokens in before
        )
