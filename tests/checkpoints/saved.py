"""All that a checkpoint holds, whatever network it is of."""

import dataclasses
from typing import Any

import flax.traverse_util
from etils import epath

from visor_jax.checkpoints import layout
from visor_jax.checkpoints.restore import list_arrays, newest_readable, read_arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """Parameters and metadata of one step."""

    params: Any
    metadata: dict[str, Any]

    @property
    def step(self) -> int:
        return self.metadata["step"]


def load_checkpoint(path: epath.PathLike, abstract: Any = None) -> Saved:
    """Returns the newest step that can be read.

    abstract: what its parameters should be and where; None for what they are.
    """

    def read(step: epath.Path) -> Saved:
        metadata = layout.read_step_metadata(step)
        wanted = abstract
        if wanted is None:
            listed = list_arrays(step, layout.PARAMS)
            wanted = flax.traverse_util.unflatten_dict(listed, sep="/")
        return Saved(params=read_arrays(step, layout.PARAMS, wanted), metadata=metadata)

    return newest_readable(path, read)
