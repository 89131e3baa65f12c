"""LLaVA-PruMerge and PruMerge+: outliers of the attention, the others merged into them.

Source: Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large
Multimodal Models", ICCV 2025, arXiv 2403.15388.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import (
    evenly_spaced,
    every,
    indices_of,
    likeness,
    merge_into,
    top,
    unit,
)

SPACINGS = ("budget", "official")


@dataclasses.dataclass(frozen=True)
class PruMerge(CropMethod):
    """The patches whose score is an outlier, `keep` at most, and one for all others.

    A score is an outlier above Q3 + 1.5 (Q3 - Q1) of its crop. Scores are the attention
    received, all heads taken for one, where the authors have a class token's. To every
    patch that stays its `neighbours` most similar ones are added, by keys, weighted by
    their scores. One more token is the sum of all that go, weighted likewise; it takes
    the last one's place (the authors append it) and counts among those kept. layer: of
    attention and keys. Tokens are in the image's order, not by score.

    Source: ICCV 2025, arXiv 2403.15388.
    """

    neighbours: int = 32
    layer: int = -1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_positive("neighbours")

    @property
    def tower_reads(self) -> TowerReads:
        """One layer's attention and its keys."""
        return TowerReads(attention=(self.layer,))

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of scores, of finding neighbours, and of both merges."""
        vision, patches = config.vision, config.vision.num_patches
        most = self.most_of(patches)
        near = crop_flops.pairs(ones=most, others=patches, width=2 * vision.width)
        rest = crop_flops.pairs(ones=1, others=patches, width=vision.width)
        merged = near + rest if most else 0
        return crop_flops.received(vision, crops=crops) + crops * merged

    def merges(self, patches: int) -> bool:
        """Returns whether any crop keeps a patch."""
        return self.most_of(patches) > 0

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with outliers, merged, and one patch for the others."""
        pair, there = crops.tower.attention[self.layer], crops.packing.there
        scores = received_attention(pair, joined=True)
        kept = self.kept(scores, there, jnp.maximum(budgets - 1, 0))
        # The last that goes speaks for all; behind the end where nobody may.
        last = there.shape[2] - 1 - jnp.argmax((there & ~kept)[..., ::-1], axis=-1)
        speaks = (there & ~kept).any(axis=-1) & (budgets > 0)
        last = jnp.where(speaks, last, there.shape[2])
        keys = unit(pair.key.reshape(*pair.key.shape[:3], -1))
        most = self.most_of(there.shape[2])
        merge = jax.vmap(
            jax.vmap(lambda *x: _merged(*x, most=most, neighbours=self.neighbours))
        )
        features = merge(crops.features, keys, scores, there, kept, last)
        keep = kept | (jnp.arange(there.shape[2]) == last[..., None])
        merged = keep if most else None
        return crops.replace(features=features, keep=keep, merged=merged)

    def kept(
        self,
        scores: Float[Array, "B C P"],
        there: Bool[Array, "B C P"],
        budgets: Int[Array, "B C"],
    ) -> Bool[Array, "B C P"]:
        """Returns the patches that stay as themselves."""
        return top(scores, there, jnp.minimum(outliers(scores, there), budgets))


@dataclasses.dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge with evenly spaced patches beside the outliers.

    spacing: "budget", as many as `keep` has room for; "official", every n-th of the
    crop, n a third of the crop's patches per outlier, or further apart where there is
    no room.

    Source: that of PruMerge.
    """

    spacing: str = "budget"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("spacing", SPACINGS)

    def kept(
        self,
        scores: Float[Array, "B C P"],
        there: Bool[Array, "B C P"],
        budgets: Int[Array, "B C"],
    ) -> Bool[Array, "B C P"]:
        """Returns the outliers and the patches between them."""
        count = jnp.minimum(outliers(scores, there), budgets)
        found, room = top(scores, there, count), budgets - count
        if self.spacing == "budget":
            return found | evenly_spaced(there & ~found, room)
        whole = there.sum(axis=-1)
        widest = -(-whole // jnp.maximum(room, 1))
        step = jnp.maximum(official_step(whole, count), jnp.maximum(widest, 1))
        return found | every(there, step, room)


def official_step(
    patches: Int[Array, "*crops"], outliers: Int[Array, "*crops"]
) -> Int[Array, "*crops"]:
    """Returns a third of the patches per outlier, both rounded down."""
    return patches // jnp.maximum(outliers, 1) // 3


def outliers(
    scores: Float[Array, "*crops P"], there: Bool[Array, "*crops P"]
) -> Int[Array, "*crops"]:
    """Returns how many scores of each crop lie above Q3 + 1.5 (Q3 - Q1).

    Quartiles are interpolated linearly between the scores that are there.
    """
    ordered = jnp.sort(jnp.where(there, scores, jnp.inf), axis=-1)
    last = jnp.maximum(there.sum(axis=-1, keepdims=True) - 1, 0)

    def quantile(share: float) -> Array:
        place = share * last
        below = jnp.floor(place).astype(jnp.int32)
        low, high = (
            jnp.take_along_axis(ordered, jnp.minimum(index, last), axis=-1)
            for index in (below, below + 1)
        )
        return low + (place - below) * (high - low)

    first, third = quantile(0.25), quantile(0.75)
    return (there & (scores > third + 1.5 * (third - first))).sum(axis=-1)


def _merged(
    features: Float[Array, "P E"],
    keys: Float[Array, "P NH"],
    scores: Float[Array, "P"],
    there: Bool[Array, "P"],
    kept: Bool[Array, "P"],
    last: Int[Array, ""],
    *,
    most: int,
    neighbours: int,
) -> Float[Array, "P E"]:
    """Returns features in which who stays has taken in others, and `last` the rest."""
    patches, wide = len(features), features.astype(jnp.float32)
    if most == 0:
        return features
    index, valid = indices_of(kept, most)
    others = there & (jnp.arange(patches) != index[:, None])
    alike = jnp.where(others, likeness(keys[index], keys), -jnp.inf)
    _, near = jax.lax.top_k(alike, min(neighbours, patches))
    weights = jnp.zeros_like(alike).at[jnp.arange(most)[:, None], near].set(1.0)
    added = jnp.einsum("mp,pe->me", weights * others * scores, wide)
    rest = (jnp.where(there & ~kept, scores, 0) @ wide)[None]
    merged = merge_into(features, index, valid, wide[index] + added)
    return merge_into(merged, last[None], last[None] < patches, rest)
