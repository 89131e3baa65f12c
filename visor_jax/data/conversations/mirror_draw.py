"""Which rows of a training step see their pictures mirrored, left to right.

A data set of few pictures becomes one of twice as many. Nothing of the text changes:
this is for data that never asks for left or right, and has no letters to be read.
"""

import dataclasses

import numpy as np

# Apart from what else is drawn for a row, as by `crop_draw`.
_OWN = 0x4D


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirrorDraw:
    """Half of the rows of a run. seed: the run's."""

    seed: int

    def is_mirrored(self, step: int, row: int) -> bool:
        """Returns whether this row of this step is."""
        drawn = np.random.default_rng([self.seed, step, row, _OWN])
        return bool(drawn.random() < 0.5)
