"""ToDRE, first stage: one important patch, then those least like all chosen before.

Source: "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient
Large Vision-Language Models", arXiv 2505.18757. Its second stage, in the decoder, is
not here.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.diversity import FEATURES, SCOPES, alike, as_one_crop
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import one_by_one, unit


@dataclasses.dataclass(frozen=True)
class ToDRE(CropMethod):
    """Patches added one by one, each with the least sum of cosines to those chosen.

    The first is the one that receives most attention in layer `layer` (the authors have
    a class token's). features: "projected", what the decoder would see; "tower",
    before. scope: budgets and cosines of each "crop", or of the "image" as a whole,
    which begins in its first crop.

    Source: arXiv 2505.18757.
    """

    layer: int = -1
    features: str = "projected"
    scope: str = "crop"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("features", FEATURES)
        self.check_choice("scope", SCOPES)

    @property
    def tower_reads(self) -> TowerReads:
        """One layer's attention, and features of the side that was asked for."""
        return TowerReads(
            attention=(self.layer,), projected=self.features == "projected"
        )

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of scores, and of each choice's cosines."""
        scopes, patches = crops, config.vision.num_patches
        if self.scope == "image":
            scopes, patches = 1, crops * patches
        width = self.compared_width(config)
        greedy = crop_flops.greedy(
            chosen=self.most_of(patches), patches=patches, width=width
        )
        return crop_flops.received(config.vision, crops=crops) + scopes * greedy

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with patches that are unlike one another."""
        first = -received_attention(crops.tower.attention[self.layer])
        vectors, there = unit(crops.features), crops.packing.there
        if self.scope == "image":
            first = as_one_crop(first.at[:, 1:].set(1.0))
            vectors, there = as_one_crop(vectors), as_one_crop(there)
            budgets = budgets.sum(axis=1, keepdims=True)
        keep = one_by_one(
            *(first, jnp.zeros_like(first), lambda index: alike(vectors, index)),
            *(jnp.add, there, budgets, self.most_of(there.shape[2])),
        )
        return crops.replace(keep=keep.reshape(crops.keep.shape))
