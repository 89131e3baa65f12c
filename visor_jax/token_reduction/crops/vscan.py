"""VScan, first stage: patches of every window and of the whole, others merged in.

Source: Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large
Vision-Language Models", TMLR 2026, arXiv 2505.22654. Its second stage, in the decoder,
is not here.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod, share_of
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import (
    indices_of,
    likeness,
    merge_into,
    top,
    unit,
)


@dataclasses.dataclass(frozen=True)
class VScan(CropMethod):
    """The best patches of each window by an early layer, then the best by a late one.

    local: share of what stays that windows choose, all alike. windows: how many a crop
    has per side. local_layer, global_layer: of the attention received (the authors have
    a class token's). Every patch that goes is averaged, projected, into the one that
    stays and is most like it. official: what is left over when windows share is lost,
    as in the authors' code; else the late layer chooses so many more.

    Source: TMLR 2026, arXiv 2505.22654.
    """

    local: float = 0.5
    windows: int = 4
    local_layer: int = 5
    global_layer: int = -1
    official: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("local")
        self.check_positive("windows")

    @property
    def tower_reads(self) -> TowerReads:
        """Two layers' attention, and projected features to merge."""
        return TowerReads(
            attention=(self.local_layer, self.global_layer), projected=True
        )

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of both scans' scores, and of merging."""
        patches, width = config.vision.num_patches, self.compared_width(config)
        most = self.most_of(patches)
        merged = crop_flops.pairs(ones=patches, others=most, width=2 * width)
        return 2 * crop_flops.received(config.vision, crops=crops) + crops * merged

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with patches of both scans; others are merged into them."""
        early, late = (
            received_attention(crops.tower.attention[layer])
            for layer in (self.local_layer, self.global_layer)
        )
        there = crops.packing.there
        local = share_of(self.local, budgets)
        chosen = self.of_windows(early, there, local // self.windows**2)
        left = budgets - (local if self.official else chosen.sum(axis=-1))
        keep = chosen | top(late, there & ~chosen, left)
        most = self.most_of(there.shape[2])
        if most == 0:
            return crops.replace(keep=keep)
        merge = jax.vmap(jax.vmap(lambda *x: _averaged(*x, most=most)))
        features, merged = merge(crops.features, there, keep)
        return crops.replace(features=features, keep=keep, merged=merged)

    def of_windows(
        self,
        scores: Float[Array, "B C P"],
        there: Bool[Array, "B C P"],
        each: Int[Array, "B C"],
    ) -> Bool[Array, "B C P"]:
        """Returns the `each` best patches of every window."""
        side = math.isqrt(scores.shape[2])
        part = jnp.arange(side) * self.windows // side
        window = (part[:, None] * self.windows + part).reshape(-1)
        inside = window == jnp.arange(self.windows**2)[:, None]
        there = there[:, :, None] & inside
        scores = jnp.broadcast_to(scores[:, :, None], there.shape)
        each = jnp.broadcast_to(each[..., None], there.shape[:3])
        return top(scores, there, each).any(axis=2)


def _averaged(
    features: Float[Array, "P E"],
    there: Bool[Array, "P"],
    keep: Bool[Array, "P"],
    *,
    most: int,
) -> tuple[Float[Array, "P E"], Bool[Array, "P"]]:
    """Returns features averaged into those that stay, and which have taken in any."""
    vectors, wide = unit(features), features.astype(jnp.float32)
    index, valid = indices_of(keep, most)
    alike = jnp.where(valid, likeness(vectors, vectors[index]), -jnp.inf)
    joins = jax.nn.one_hot(jnp.argmax(alike, axis=1), most, dtype=jnp.float32)
    joins *= (there & ~keep & keep.any())[:, None]
    joined = joins.sum(axis=0)
    mean = (wide[index] + joins.T @ wide) / (1 + joined)[:, None]
    valid &= joined > 0
    merged = jnp.zeros_like(keep).at[index].max(valid)
    return merge_into(features, index, valid, mean), merged
