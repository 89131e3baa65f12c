"""VisionZip: dominant patches, and merged ones for what the others show.

Source: Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language
Models", CVPR 2025, arXiv 2412.04467; its repository for the order of operations.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod, fraction, share_of
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import (
    every,
    indices_of,
    likeness,
    merge_into,
    top,
    unit,
)


@dataclasses.dataclass(frozen=True)
class VisionZip(CropMethod):
    """The patches that receive most attention, and the rest merged into a few of it.

    dominant: share of what stays that is taken as it is (54 of 64 by default). layer:
    of the attention, and of the keys, averaged over heads, that say what is alike. Of
    the rest, targets at equal distances take in those most like them: a target plus the
    mean of what it takes in. Merged tokens are written at their target's place; the
    authors append them. At keep=1 the targets take in nothing. There is no class token
    to keep. A row's newline stays by the rule for all methods.

    Source: CVPR 2025, arXiv 2412.04467.
    """

    dominant: float = 0.84375
    layer: int = -1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("dominant")

    @property
    def tower_reads(self) -> TowerReads:
        """One layer's attention, whose keys are the measure of likeness."""
        return TowerReads(attention=(self.layer,))

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of scores, and of finding targets and merging."""
        vision, patches = config.vision, config.vision.num_patches
        # Likeness is that of keys, averaged over heads.
        width = vision.head_dim + vision.width
        merged = crop_flops.pairs(
            ones=patches, others=self.most_merged(patches), width=width
        )
        return crop_flops.received(vision, crops=crops) + crops * merged

    def merges(self, patches: int) -> bool:
        """Returns whether any crop has targets."""
        return self.most_merged(patches) > 0

    def most_merged(self, patches: int) -> int:
        """Returns how many merged tokens any crop may have."""
        # As many as any crop's budget leaves: budgets less their dominant share rise.
        most = self.most_of(patches)
        return most - int(fraction(self.dominant) * most)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with dominant and merged patches."""
        pair, there = crops.tower.attention[self.layer], crops.packing.there
        dominant = share_of(self.dominant, budgets)
        taken = top(received_attention(pair), there, dominant)
        metric = unit(pair.key.astype(jnp.float32).mean(axis=3))
        most = self.most_merged(there.shape[2])
        if most == 0:
            return crops.replace(keep=taken)
        merge = jax.vmap(jax.vmap(lambda *x: _contextual(*x, most=most)))
        rest, counts = there & ~taken, budgets - dominant
        features, targets, merged = merge(crops.features, metric, rest, counts)
        return crops.replace(features=features, keep=taken | targets, merged=merged)


def _contextual(
    features: Float[Array, "P E"],
    metric: Float[Array, "P H"],
    rest: Bool[Array, "P"],
    count: Int[Array, ""],
    *,
    most: int,
) -> tuple[Float[Array, "P E"], Bool[Array, "P"], Bool[Array, "P"]]:
    """Returns features with merged targets, the targets, and those that took in any."""
    step = jnp.maximum(rest.sum() // jnp.maximum(count, 1), 1)
    targets = every(rest, step, count)
    index, valid = indices_of(targets, most)
    alike = jnp.where(valid, likeness(metric, metric[index]), -jnp.inf)
    joins = jax.nn.one_hot(jnp.argmax(alike, axis=1), most, dtype=jnp.float32)
    joins *= (rest & ~targets & (count > 0))[:, None]
    joined = joins.sum(axis=0)
    wide = features.astype(jnp.float32)
    mean = joins.T @ wide / jnp.maximum(joined, 1)[:, None]
    valid &= joined > 0
    merged = jnp.zeros_like(rest).at[index].max(valid)
    return merge_into(features, index, valid, wide[index] + mean), targets, merged
