"""The network that one of our checkpoints holds: what a step says of it, and arrays.

stored = newest_network("runs/universal")                     # reads no array
params = read_newest("runs/universal", StoredNetwork.read_params)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.placement import placed
from visor_jax.checkpoints.restore import (
    check_fits,
    list_arrays,
    newest_readable,
    read_part,
)
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PARAMS as POLICY
from visor_jax.policy.network import Policy, PolicyConfig, new_policy

Params = Any
Result = TypeVar("Result")

# Heads of the auxiliary reading loss, which only training uses, and the policy, which
# stands beside the network.
_BESIDE_THE_NETWORK = ("reading_heads", POLICY)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoredNetwork:
    """A network as a step directory holds it; arrays are read when they are asked for.

    step: that directory. metadata: all that its run recorded.
    """

    step: epath.Path
    metadata: dict[str, Any]
    config: VLMConfig

    @classmethod
    def of(cls, step: epath.Path) -> "StoredNetwork":
        """Returns the network of a step directory.

        Raises:
          DamagedCheckpointError: if the metadata cannot be read.
          ValueError: if they are not of a network of this version.
        """
        metadata = layout.read_step_metadata(step)
        try:
            config = VLMConfig.from_dict(metadata["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{step} does not describe a network of this version: {error}"
            ) from error
        return cls(step=step, metadata=metadata, config=config)

    @functools.cached_property
    def budgets(self) -> BudgetSet:
        """What the network was trained for, in class order."""
        return BudgetSet.parse(self.metadata["budgets"], self.config.plan)

    @property
    def source(self) -> Mapping[str, Any] | None:
        """config.json that its weights were imported with; None if none were."""
        return (self.metadata.get("source") or {}).get("config")

    @functools.cached_property
    def shapes(self) -> Params:
        """Shapes and dtypes of its parameters as they are stored.

        Raises:
          ValueError: if they are not those of `config`; all keys are listed.
        """
        listed = list_arrays(self.step, layout.PARAMS)
        stored = network_alone(flax.traverse_util.unflatten_dict(listed, sep="/"))
        expected = parameter_shapes(self.config)
        check_fits(self.step, layout.PARAMS, stored, expected)
        return stored

    def read_params(
        self, *, dtype: str | None = None, mesh: jax.sharding.Mesh | None = None
    ) -> Params:
        """Returns the network's parameters, without heads of the reading loss.

        Each array is read straight into its dtype and place: there is never a second
        copy.

        Args:
          dtype: of all of them; None as stored.
          mesh: to split them over; None for the first device.

        Raises:
          DamagedCheckpointError: if files are missing or cut short.
          ValueError: if they are not those of `config`, or do not split over the mesh.
        """
        expected = placed(self.shapes, dtype=dtype and np.dtype(dtype), mesh=mesh)
        return read_part(self.step, layout.PARAMS, expected)

    def read_policy(self, *, mesh: jax.sharding.Mesh | None = None) -> Policy | None:
        """Returns the policy that was trained for the network, None if there is none.

        Args:
          mesh: whose devices all hold all of it; None for the first device.
        """
        described = self.metadata.get("policy")
        if not described:
            return None
        config = PolicyConfig.from_dict(described["config"])
        new = functools.partial(new_policy, config, self.config.decoder.width)
        shapes = placed({POLICY: jax.eval_shape(new, jax.random.key(0))})
        if mesh is not None:
            whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
            )
        params = read_part(self.step, layout.PARAMS, shapes)[POLICY]
        return Policy.of(described, params, self.budgets.names)


def newest_network(path: epath.PathLike) -> StoredNetwork:
    """Returns the network of the newest step whose metadata can be read.

    To read its arrays as well, use `read_newest`, which knows what to do about damage.

    Args:
      path: a workdir, its `checkpoints` directory, or one step directory.

    Raises:
      ValueError: as `newest_readable`, or if it is no network of this version.
    """
    return newest_readable(path, StoredNetwork.of)


def read_newest(
    path: epath.PathLike, read: Callable[[StoredNetwork], Result]
) -> Result:
    """Returns what `read` makes of the newest network that it can read.

    See `newest_readable`.
    """
    return newest_readable(path, lambda step: read(StoredNetwork.of(step)))


def network_alone(params: Params) -> Params:
    """Returns the parameters, or their shapes, that the network computes with."""
    return {
        k: part for k, part in params.items() if not k.startswith(_BESIDE_THE_NETWORK)
    }
