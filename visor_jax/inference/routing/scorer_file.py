"""The trained scorer of tiles of a checkpoint: tile_scorer.msgpack in its workdir.

It is of one step of one network, like a calibrated cascade (`cascade_file`): another
step's hidden states mean something else.
"""

import dataclasses
import logging

import flax.serialization
import jax
import numpy as np
from etils import epath

from visor_jax.policy.tile_scorer import TileScorer, TrainedScorer
from visor_jax.runtime import atomic_write

SCORER_FILE = "tile_scorer.msgpack"

_HOW = "train one by `python -m visor_jax.looks --scorer_pages=256 --keep_scorer`"
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ScorerFile:
    """Where a checkpoint's scorer lies, there or not, and of which step it is."""

    path: epath.Path
    step: int

    @classmethod
    def beside(cls, step: epath.PathLike) -> "ScorerFile":
        """Returns that of a step directory."""
        step = epath.Path(step)
        return cls(step.parents[1] / SCORER_FILE, int(step.name))

    def read(self) -> TrainedScorer | None:
        """Returns the scorer, None if there is none of this step; logs another step's.

        Raises:
          ValueError: if the file holds no scorer.
        """
        if not self.path.exists():
            return None
        try:
            content = flax.serialization.msgpack_restore(self.path.read_bytes())
            step, width = int(content["step"]), int(content["width"])
            params = content["params"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path} holds no scorer of tiles ({error}): remove it, or {_HOW}."
            ) from error
        if step != self.step:
            _logger.warning(
                "%s is of step %d, and this is step %d: the CROSS layers' attention "
                "chooses tiles; or %s",
                *(self.path, step, self.step, _HOW),
            )
            return None
        return TrainedScorer(module=TileScorer(width), params=params)

    def write(self, scorer: TrainedScorer) -> None:
        """Writes the scorer, whole or not at all; to this machine's disk."""
        content = {
            "step": self.step,
            "width": scorer.module.width,
            "params": jax.tree.map(np.asarray, scorer.params),
        }
        packed = flax.serialization.msgpack_serialize(content)
        atomic_write.write_bytes(self.path, packed)
