"""Arrays split by what their dimensions mean, over the mesh and the rules in context.

A dimension that its mesh axes do not divide is split over as many of them, from the
first on, as do divide it, and is whole on the devices of the others. Rows over the axes
(data 2, fsdp 4):

    rows   split over     on a device
    8      data, fsdp     1
    6      data           3
    1                     1, the same on all

So a program that serves one prompt and one that serves eight are written alike.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array

# Devices, or only how many there are along each axis.
AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


def dividing(size: int, name: str | None, mesh: AnyMesh) -> tuple[str, ...]:
    """Returns the mesh axes that a dimension of this size is split over.

    Args:
      name: the dimension's logical axis; None for one that is never split.
    """
    entry = (*nn.logical_to_mesh_axes((name,)), None)[0]
    axes = (entry,) if isinstance(entry, str) else entry or ()
    chosen: list[str] = []
    parts = 1
    for axis in axes:
        parts *= mesh.shape[axis]
        if size % parts:
            break
        chosen.append(axis)
    return tuple(chosen)


def spec_of(shape: Sequence[int], names: Sequence[str | None], mesh: AnyMesh) -> jax.P:
    """Returns the mesh axes of an array of this shape, a logical axis for each size."""
    split = (dividing(*each, mesh) for each in zip(shape, names, strict=True))
    return jax.P(*(axes or None for axes in split))


def constrained(x: Array, names: Sequence[str | None]) -> Array:
    """Returns the array, split by its logical axes; as it is where nothing is split.

    Where everything divides this is `flax.linen.with_logical_constraint`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or not nn.get_logical_axis_rules():
        return nn.with_logical_constraint(x, tuple(names))
    whole = nn.logical_to_mesh_axes(tuple(names))
    found = spec_of(x.shape, names, mesh)
    if all(_axes(a) == _axes(b) for a, b in zip(found, whole, strict=True)):
        return nn.with_logical_constraint(x, tuple(names))
    return jax.lax.with_sharding_constraint(x, found)


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
