"""Which mesh axis each logical axis is split over: the one table of that."""

from collections.abc import Iterable, Sequence

from jax.sharding import NamedSharding, PartitionSpec

from visor_jax import axes
from visor_jax.sharding.mesh import AnyMesh

MeshAxes = str | tuple[str, ...] | None

# Parameters are split over fsdp along the width they read or write, over tensor along
# heads, MLP width and vocabulary; samples over data and fsdp together. In the embedding
# lookup fsdp splits columns instead, and only small token ids are gathered over it.
RULES: dict[str, MeshAxes] = {
    axes.BATCH: ("data", "fsdp"),
    axes.LOOKUP_BATCH: "data",
    axes.EMBED: "fsdp",
    axes.VISION_EMBED: "fsdp",
    axes.MLP: "tensor",
    axes.HEADS: "tensor",
    axes.KV_HEADS: "tensor",
    axes.VOCAB: "tensor",
}


def logical_rules() -> tuple[tuple[str, MeshAxes], ...]:
    """Returns the table as `flax.linen.logical_axis_rules` wants it."""
    return tuple(RULES.items())


def spec(logical: Sequence[str | None]) -> PartitionSpec:
    """Returns the mesh axes of an array with these logical axes.

    Raises:
      ValueError: for an unknown logical axis, or one mesh axis used for two dimensions.
    """
    unknown = [name for name in logical if name is not None and name not in RULES]
    if unknown:
        raise ValueError(f"Unknown logical axes {unknown}: see visor_jax/axes.py.")
    entries = [None if name is None else RULES[name] for name in logical]
    used = [axis for entry in entries for axis in _flat(entry)]
    if len(used) != len(set(used)):
        raise ValueError(
            f"Logical axes {tuple(logical)} use a mesh axis twice: {used}."
        )
    return PartitionSpec(*entries)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: split by sample."""
    return NamedSharding(mesh, spec((axes.BATCH,)))


def samples_split(mesh: AnyMesh) -> int:
    """Returns over how many devices the samples of a batch are split."""
    entry = RULES[axes.BATCH]
    count = 1
    for axis in _flat(entry):
        count *= mesh.shape[axis]
    return count


def _flat(entry: MeshAxes) -> Iterable[str]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else entry
