"""The trained scorer of tiles of a checkpoint: tile_scorer.msgpack in its workdir.

It is of one network, whose hidden states it reads: of another step, or trained anew,
they mean something else.
"""

import dataclasses
import hashlib
import logging

import flax.serialization
import jax
import numpy as np
from etils import epath

from visor_jax.models.config import VLMConfig
from visor_jax.policy.tile_scorer import TileScorer, TrainedScorer, blank_features
from visor_jax.runtime import atomic_write

SCORER_FILE = "tile_scorer.msgpack"
# Orbax's own: when the step was saved, to the nanosecond.
_SAVED = "_CHECKPOINT_METADATA"
_HOW = "train one by `python -m visor_jax.looks --scorer_pages=1024 --keep_scorer`"

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ScorerFile:
    """Where a checkpoint's scorer lies, there or not. step: of the network."""

    path: epath.Path
    step: epath.Path

    @classmethod
    def beside(cls, step: epath.PathLike) -> "ScorerFile":
        """Returns that of a step directory."""
        step = epath.Path(step)
        return cls(step.parents[1] / SCORER_FILE, step)

    def read(self, config: VLMConfig) -> TrainedScorer | None:
        """Returns the scorer of this network, None if there is none; logs another's.

        config: of the network.

        Raises:
          ValueError: if the file holds no scorer.
        """
        if not self.path.exists():
            return None
        try:
            content = flax.serialization.msgpack_restore(self.path.read_bytes())
            network, width = content["network"], int(content["width"])
            found = TrainedScorer(module=TileScorer(width), params=content["params"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path} holds no scorer of tiles ({error}): remove it, or {_HOW}."
            ) from error
        if network != self._network():
            _logger.warning(
                "%s is of another network or another step: the CROSS layers' attention "
                "chooses tiles; or %s",
                *(self.path, _HOW),
            )
            return None
        self._check_shapes(found, config)
        return found

    def write(self, scorer: TrainedScorer) -> None:
        """Writes the scorer, whole or not at all; to this machine's disk.

        Raises OSError where that cannot be.
        """
        content = {
            "network": self._network(),
            "width": scorer.module.width,
            "params": jax.tree.map(np.asarray, scorer.params),
        }
        packed = flax.serialization.msgpack_serialize(content)
        atomic_write.write_bytes(self.path, packed)

    def _network(self) -> str:
        """Returns which network it is: a step, and when it was saved."""
        saved = self.step / _SAVED
        said = saved.read_bytes() if saved.exists() else b""
        return f"{self.step.name} {hashlib.sha256(said).hexdigest()[:32]}"

    def _check_shapes(self, scorer: TrainedScorer, config: VLMConfig) -> None:
        blank = blank_features(config.decoder.width)
        init = jax.eval_shape(scorer.module.init, jax.random.key(0), blank)
        wanted, there = (
            jax.tree.map(np.shape, tree) for tree in (init["params"], scorer.params)
        )
        if wanted != there:
            raise ValueError(
                f"{self.path} holds a scorer of sizes {there}, and this network's are "
                f"{wanted}: remove it, or {_HOW}."
            )
