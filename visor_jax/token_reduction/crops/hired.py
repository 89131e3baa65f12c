"""HiRED: budgets for tiles by where the base view is looked at.

Source: Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of
High-Resolution Vision-Language Models", AAAI 2025, arXiv 2408.10945.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, Packing, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod, fraction, share_of
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import ranks, top


@dataclasses.dataclass(frozen=True)
class HiRED(CropMethod):
    """The patches that receive most attention, more of them in tiles that matter more.

    base: share of what stays that the base view gets. What is left is divided among the
    tiles by how many of the base view's most attended patches lie where the tile is; of
    a tile no more than all stay, and what it cannot use is lost. initial_layer: its
    attention says which of the base's patches matter; final_layer: which patches stay.
    official: regions as the authors' code has them, runs of patches row by row in place
    of rectangles. How tiles lie is read off the newlines: without any, all are one row.
    Images without a base view (one crop, several images, videos) keep the same share of
    every crop.

    Source: AAAI 2025, arXiv 2408.10945.
    """

    keep: float = 0.2
    base: float = 0.5
    initial_layer: int = 0
    final_layer: int = -1
    official: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("base")

    @property
    def tower_reads(self) -> TowerReads:
        """Two layers' attention."""
        return TowerReads(attention=(self.initial_layer, self.final_layer))

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of both layers' scores."""
        return 2 * crop_flops.received(config.vision, crops=crops)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with the best patches that each one's budget allows."""
        initial, final = (
            received_attention(crops.tower.attention[layer])
            for layer in (self.initial_layer, self.final_layer)
        )
        there = crops.packing.there
        if there.shape[1] > 1:
            marked = self.marked(initial[:, 0], crops.packing)
            tiled = self.divided(budgets.sum(axis=1), marked, there.sum(axis=2))
            budgets = jnp.where(crops.packing.has_base[:, None], tiled, budgets)
        return crops.replace(keep=top(final, there, budgets))

    def marked(self, scores: Array, packing: Packing) -> Int[Array, "B tiles"]:
        """Returns how many of the base view's best patches lie in each tile's region.

        scores: (B, P) of the base view.
        """
        patches = packing.per_crop
        count = int((1 - fraction(self.base)) * patches)
        best = ranks(scores, jnp.ones_like(scores, bool)) < count
        rows, columns = packing.tile_grid[:, :1], packing.tile_grid[:, 1:]
        place = jnp.arange(patches)
        if self.official:
            region = place * (rows * columns) // patches
        else:
            side = math.isqrt(patches)
            row = place // side * rows // side
            region = row * columns + place % side * columns // side
        tiles = jax.nn.one_hot(region, packing.crops - 1, dtype=jnp.int32)
        return (tiles * best[..., None]).sum(axis=1)

    def divided(
        self, total: Int[Array, "B"], marked: Int[Array, "B tiles"], patches: Array
    ) -> Int[Array, "B C"]:
        """Returns the budgets of the base view and of its tiles; patches (B, C)."""
        base = jnp.minimum(share_of(self.base, total), patches[:, 0])
        left = (total - base)[:, None] * marked
        tiles = left // jnp.maximum(marked.sum(axis=1, keepdims=True), 1)
        tiles = jnp.minimum(tiles, patches[:, 1:])
        return jnp.concatenate([base[:, None], tiles], axis=1)
