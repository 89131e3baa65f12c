"""FasterVLM: the patches that the tower's own attention ranks highest.

Source: Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token
Pruning", arXiv 2412.01818v1.
"""

import dataclasses

from jaxtyping import Array, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import top


@dataclasses.dataclass(frozen=True)
class FasterVLM(CropMethod):
    """The patches of each crop that receive most attention, in their order.

    layer: of the attention; -1 made the features. The authors rank by the attention of
    a class token, which SigLIP does not have, and drop all newlines.

    Source: arXiv 2412.01818v1.
    """

    layer: int = -1

    @property
    def tower_reads(self) -> TowerReads:
        """One layer's attention."""
        return TowerReads(attention=(self.layer,))

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of scores."""
        return crop_flops.received(config.vision, crops=crops)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with the patches of highest score."""
        scores = received_attention(crops.tower.attention[self.layer])
        return crops.replace(keep=top(scores, crops.packing.there, budgets))
