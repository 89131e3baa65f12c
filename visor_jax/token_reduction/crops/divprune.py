"""DivPrune: the patches that are farthest apart (max-min diversity).

Source: Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large
Multimodal Models", CVPR 2025, arXiv 2503.02175.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.diversity import (
    FEATURES,
    SCOPES,
    alike,
    as_one_crop,
    over_pairs,
)
from visor_jax.token_reduction.select import likeness, one_by_one, unit

STARTS = ("isolated", "first")


@dataclasses.dataclass(frozen=True)
class DivPrune(CropMethod):
    """Patches added one by one, each the farthest from the nearest of those chosen.

    Distance is 1 - cosine. features: "projected", what the decoder would see; "tower",
    before. scope: whether budgets and distances are those of each crop or of the
    "image" as a whole. start: the first patch is the "isolated" one, whose nearest
    neighbour is farthest, or the "first".

    Source: CVPR 2025, arXiv 2503.02175.
    """

    features: str = "projected"
    scope: str = "crop"
    start: str = "isolated"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("features", FEATURES)
        self.check_choice("scope", SCOPES)
        self.check_choice("start", STARTS)

    @property
    def tower_reads(self) -> TowerReads:
        """Features on the side of the projector that was asked for."""
        return TowerReads(projected=self.features == "projected")

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of distances: of all pairs, then of each choice."""
        scopes, patches = crops, config.vision.num_patches
        if self.scope == "image":
            scopes, patches = 1, crops * patches
        width = self.compared_width(config)
        greedy = crop_flops.greedy(
            chosen=self.most_of(patches), patches=patches, width=width
        )
        first = 0
        if self.start == "isolated":
            first = crop_flops.all_pairs(patches=patches, width=width)
        return scopes * (first + greedy)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with patches that are far apart."""
        vectors, there = unit(crops.features), crops.packing.there
        if self.scope == "image":
            vectors, there = as_one_crop(vectors), as_one_crop(there)
            budgets = budgets.sum(axis=1, keepdims=True)
        first = jnp.broadcast_to(
            jnp.arange(there.shape[2], dtype=jnp.float32), there.shape
        )
        if self.start == "isolated":
            first = nearest(vectors, there)
        keep = one_by_one(
            first,
            jnp.full(there.shape, -jnp.inf),
            lambda index: alike(vectors, index),
            jnp.maximum,
            there,
            budgets,
            self.most_of(there.shape[2]),
        )
        return crops.replace(keep=keep.reshape(crops.keep.shape))


def nearest(
    vectors: Float[Array, "B C P E"], there: Bool[Array, "B C P"]
) -> Float[Array, "B C P"]:
    """Returns each patch's cosine to the most similar other one that is there."""
    return over_pairs(
        lambda rows: likeness(vectors[:, :, rows], vectors),
        lambda pairs: pairs.max(axis=-1),
        there,
        -jnp.inf,
    )
