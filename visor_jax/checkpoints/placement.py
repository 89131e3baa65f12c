"""Where restored parameters go, and in which dtype: the tree that reading aims at."""

from typing import Any

import jax

from visor_jax.sharding.mesh import AnyMesh
from visor_jax.sharding.param_rules import param_shardings

Params = Any


def placed(shapes: Params, *, dtype: Any = None, mesh: AnyMesh | None = None) -> Params:
    """Returns `jax.ShapeDtypeStruct`s of parameters as they are to be read.

    Args:
      shapes: arrays or `jax.ShapeDtypeStruct`s.
      dtype: of all of them; None for each one's own.
      mesh: to split them over; None leaves them to the first device.

    Raises:
      ValueError: if a parameter cannot be split over the mesh.
    """
    if mesh is None:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), shapes
        )
    return jax.tree.map(
        lambda x, split: jax.ShapeDtypeStruct(
            x.shape, dtype or x.dtype, sharding=split
        ),
        shapes,
        param_shardings(shapes, mesh),
    )
