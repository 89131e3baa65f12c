"""Lower resolution: smaller crops before the tower. A control.

What a method must beat that looks at every patch and then drops some: the same number
of tokens by looking at a smaller picture.
"""

import dataclasses

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.pooled.pooled import SquareWindows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowerResolution(SquareWindows):
    """Crops are shrunk to `tokens` x `tokens` patches before the tower sees them.

    tokens: None for half of the patches per side, rounded up. Learned places, of the
    tower and of the projector, are resized linearly. Both have less to do as well.
    newlines, grid: see `pooled`.
    """

    def crop_flops(self, config: VLMConfig, *, crops: int) -> int:
        """Returns the matrix products of shrinking the crops; 0 at full size.

        That of the learned places, once for a whole batch, is not counted.
        """
        if self.tower_reads.side is None:
            return 0
        return crop_flops.shrinking(config.vision, side=self.per_side, crops=crops)

    @property
    def tower_reads(self) -> TowerReads:
        """Smaller crops; at full size the plain ones."""
        return TowerReads(side=None if self.per_side == self.side else self.per_side)
