"""Kernels that the compiler cannot split, called on every device with its own share.

XLA splits a program over a mesh by itself, but not what is inside a Pallas kernel. So
the call is split by hand: rows over the mesh axes of samples, heads over those of
heads. Which these are the logical rules in context say, as for every other array; a
mesh and its rules come into context together (`jax.set_mesh`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from visor_jax.axes import BATCH, HEADS, KV_HEADS
from visor_jax.ops.logical_axes import dividing

MeshAxes = str | tuple[str, ...] | None


def refuses_mesh(
    query: Array, keys: Sequence[Array], *, alone: bool = True
) -> str | None:
    """Returns why these arrays cannot be split over the mesh in context, or None.

    Args:
      query: (B, Q, N, H). keys: each (B, M, K, H).
      alone: whether a kernel without a mesh has to be on one device; False for one
        that XLA splits (interpreted).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and alone and jax.device_count() > 1:
        return (
            f"no mesh in context says which of the {jax.device_count()} devices "
            "compute what: call it inside jax.set_mesh"
        )
    if not _splits(mesh):
        return None
    heads, kv_heads = _head_axes()
    counts = [
        ("heads", query.shape[2], heads),
        *(("key/value heads", key.shape[2], kv_heads) for key in keys),
    ]
    for name, count, axes in counts:
        if count % (devices := _devices(mesh, axes)):
            return f"{count} {name} do not split over {devices} devices of {axes}"
    return None


def split_over_mesh(
    call: Callable[..., Array],
    by_head: tuple[Float[Array, "..."], ...],
    by_row: tuple[Any, ...],
) -> Array:
    """Returns `call(*by_head, *by_row)`, on every device of its own rows and heads.

    Without a mesh in context, or with one of a single device, it is called as it is.
    Rows that a mesh axis does not divide are the same on all of its devices.

    Args:
      call: gives an array split like the first argument.
      by_head: query, and keys and values: (B, T, heads, H).
      by_row: trees of arrays whose first axis are the rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not _splits(mesh):
        return call(*by_head, *by_row)
    rows = dividing(by_head[0].shape[0], BATCH, mesh) or None
    heads, kv_heads = _head_axes()
    query = jax.P(rows, None, heads)
    specs = (query, *(jax.P(rows, None, kv_heads),) * (len(by_head) - 1))
    split = jax.shard_map(
        call,
        in_specs=(*specs, *(jax.P(rows),) * len(by_row)),
        out_specs=query,
        # Kernels do not say over which axes their results vary.
        check_vma=False,
    )
    return split(*by_head, *by_row)


def _splits(mesh: jax.sharding.AbstractMesh) -> bool:
    """Returns whether there is something to split, and nobody has done so already."""
    return not mesh.empty and mesh.size > 1 and not mesh.manual_axes


def _head_axes() -> tuple[MeshAxes, MeshAxes]:
    """Returns the mesh axes of heads and key/value heads."""
    return tuple(
        (*nn.logical_to_mesh_axes((name,)), None)[0] for name in (HEADS, KV_HEADS)
    )


def _devices(mesh: jax.sharding.AbstractMesh, axes: MeshAxes) -> int:
    count = 1
    for axis in (axes,) if isinstance(axes, str) else axes or ():
        count *= mesh.shape[axis]
    return count
