"""VScan, both stages: two scans of the picture, then the last word's choice.

Source: Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large
Vision-Language Models", TMLR 2026, arXiv 2505.22654.
"""

import dataclasses

from visor_jax.token_reduction.crops.vscan import VScan
from visor_jax.token_reduction.two_stages.later_stage import LaterStage


@dataclasses.dataclass(frozen=True)
class VScanBothStages(LaterStage, VScan):
    """Both scans (`vscan_stage1`), then the tokens that the last word looks at most.

    decoder_layer: None for half of the depth, as 16 of 32 and 14 of 28 layers; its own
    queries and keys say who is looked at. remaining: share of the first stage's tokens
    that stays behind it, a third as 32 of 96.

    Source: TMLR 2026, arXiv 2505.22654.
    """
