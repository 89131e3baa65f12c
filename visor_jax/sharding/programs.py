"""Programs that run on the devices of their parameters: the mesh comes into context.

Parameters know their mesh, and nobody else has to be told: whatever makes a program
looks where they lie, here. Inside that context arrays are split by the logical rules,
and kernels that the compiler cannot split know over which devices they are to be.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from visor_jax.runtime.bounded_jit import BoundedJit, bounded_jit
from visor_jax.sharding.axis_rules import logical_rules
from visor_jax.sharding.mesh import MESH_AXES

# Where a kernel cannot be split, a program on one device of several says that it is
# alone there. Elsewhere it needs no context, and has none.
_ALONE_ON = ("tpu",)


@contextlib.contextmanager
def on_mesh(mesh: jax.sharding.Mesh | None) -> Iterator[None]:
    """What runs inside is split over the mesh by the logical rules; None changes
    nothing."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        yield


def mesh_of(params: Any) -> jax.sharding.Mesh | None:
    """Returns the mesh that parameters, or their shapes, lie on; None for no mesh.

    The first array speaks for all: `checkpoints.placement` puts them on one mesh.
    """
    leaf = next(iter(jax.tree.leaves(params)), None)
    if leaf is None or isinstance(leaf, jax.core.Tracer):
        return None
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, jax.sharding.NamedSharding):
        mesh = sharding.mesh
        is_ours = isinstance(mesh, jax.sharding.Mesh) and mesh.axis_names == MESH_AXES
        return mesh if is_ours else None
    if isinstance(leaf, jax.Array) and jax.device_count() > 1:
        return _mesh_of_one(leaf)
    return None


def _mesh_of_one(x: jax.Array) -> jax.sharding.Mesh | None:
    (device, *others) = x.devices()
    if others or device.platform not in _ALONE_ON:
        return None
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    devices = np.array(device).reshape((1,) * len(MESH_AXES))
    return jax.sharding.Mesh(devices, MESH_AXES, axis_types=auto)


def mesh_jit(
    *, static_argnames: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """Returns a decorator: `bounded_jit` on the mesh of the argument `params`.

    Of a function without `params` the first argument speaks.
    """
    return bounded_jit(static_argnames=static_argnames, context=_context_of)


def _context_of(given: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    arrays = given["params"] if "params" in given else next(iter(given.values()), None)
    return on_mesh(mesh_of(arrays))
