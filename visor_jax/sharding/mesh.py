"""The device mesh: data x fsdp x tensor. One CPU device is the mesh (1, 1, 1)."""

import dataclasses
import math

import jax
import numpy as np

from visor_jax.runtime.arguments import shown

MESH_AXES = ("data", "fsdp", "tensor")
# Devices, or only how many there are along each axis, which is enough to plan with.
AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Devices along each mesh axis; one of them may be -1 for "all that are left".

    data: copies of the network that see different samples.
    fsdp: samples are split, and so are parameters and optimiser state.
    tensor: heads, MLP width and vocabulary are split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        wrong = {k: v for k, v in sizes.items() if v != -1 and v < 1}
        if wrong:
            raise ValueError(f"Mesh axes must be at least 1, or -1: {wrong}.")
        if sum(v == -1 for v in sizes.values()) > 1:
            raise ValueError(f"Only one mesh axis may be -1, got {sizes}.")

    @classmethod
    def parse(cls, text: str) -> "MeshSettings":
        """Returns the settings of "2,1,4". Raises ValueError for anything else."""
        parts = text.split(",")
        try:
            sizes = [int(part) for part in parts]
        except ValueError:
            sizes = []
        if len(sizes) != len(MESH_AXES):
            raise ValueError(
                f"{text!r} is no mesh: three numbers are needed, DATA,FSDP,TENSOR, "
                "such as 2,1,4; one of them may be -1 for the devices that are left."
            )
        return cls(**dict(zip(MESH_AXES, sizes, strict=True)))


def make_mesh(settings: MeshSettings) -> jax.sharding.Mesh:
    """Returns the mesh over the devices of all processes.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    sizes = [settings.data, settings.fsdp, settings.tensor]
    devices = jax.device_count()
    fixed = math.prod(s for s in sizes if s != -1)
    shape = [devices // fixed if s == -1 else s for s in sizes]
    if math.prod(shape) != devices:
        wanted = dict(zip(MESH_AXES, sizes, strict=True))
        raise ValueError(
            f"The mesh {wanted} does not fit {devices} devices: the axes must multiply "
            "to the number of devices (-1 takes what is left)."
        )
    # Auto: the compiler propagates shardings from parameters and batches. The default,
    # Explicit, would demand one for every contraction of a split dimension.
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(shape), MESH_AXES, axis_types=auto)


def planned_mesh(data: int, fsdp: int, tensor: int) -> jax.sharding.AbstractMesh:
    """Returns a mesh of devices that need not be here. Raises ValueError below 1."""
    settings = MeshSettings(data=data, fsdp=fsdp, tensor=tensor)
    sizes = dataclasses.astuple(settings)
    if -1 in sizes:
        raise ValueError(f"A planned mesh has no -1: it has no devices, got {sizes}.")
    return jax.sharding.AbstractMesh(sizes, MESH_AXES)


def as_mesh(mesh: MeshSettings | jax.sharding.Mesh) -> jax.sharding.Mesh:
    """Returns the mesh that is meant, its axes of the type that the rules here need.

    Raises:
      ValueError: if the settings do not fit the devices, or a mesh has other axes.
    """
    if isinstance(mesh, MeshSettings):
        return make_mesh(mesh)
    if not isinstance(mesh, jax.sharding.Mesh):
        raise ValueError(
            f"mesh={shown(mesh)} is neither a Mesh nor MeshSettings: make it with "
            "visor_jax.sharding.mesh.make_mesh."
        )
    if mesh.axis_names != MESH_AXES:
        raise ValueError(
            f"The mesh has the axes {mesh.axis_names}, not {MESH_AXES}: make it with "
            "visor_jax.sharding.mesh.make_mesh."
        )
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.sharding.Mesh(mesh.devices, MESH_AXES, axis_types=auto)


def check_heads(heads: int, mesh: AnyMesh) -> None:
    """Raises ValueError for query heads that the axis tensor does not divide."""
    tensor = mesh.shape["tensor"]
    if heads % tensor:
        possible = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(
            f"The decoder's {heads} query heads do not split over tensor {tensor} of "
            f"the mesh: choose one of {possible} and give the other devices to data or "
            "fsdp."
        )


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Returns e.g. "mesh data 4 x fsdp 2 x tensor 1, 8 cpu devices"."""
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    platform = np.ravel(mesh.devices)[0].platform
    return f"mesh {sizes}, {mesh.size} {platform} device{'s'[: mesh.size > 1]}"
