"""Lower resolution: smaller crops before the tower. A control.

What a method must beat that looks at every patch and then drops some: the same number
of tokens by looking at a smaller picture.
"""

import dataclasses

from visor_jax.models.vision.crop_features import TowerReads
from visor_jax.token_reduction.pooled.pooled import SquareWindows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowerResolution(SquareWindows):
    """Crops are shrunk to `tokens` x `tokens` patches before the tower sees them.

    tokens: None for half of the patches per side, rounded up. Learned places, of the
    tower and of the projector, are resized linearly. The tower has less to do as well;
    the account does not know it, so that its end-to-end FLOPs are an upper bound.
    newlines, grid: see `pooled`.
    """

    @property
    def tower_reads(self) -> TowerReads:
        """Smaller crops; at full size the plain ones."""
        return TowerReads(side=None if self.per_side == self.side else self.per_side)
