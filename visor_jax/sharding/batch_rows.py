"""Which rows of every batch a process loads, and how they become one global array.

Two processes of two devices each, mesh data 4, batches of 8 rows:

    row       0 1 | 2 3 | 4 5 | 6 7
    device     0     1     2     3
    process  <--  0  -->  <--  1  -->     rows 0:4 and 4:8

Where the tensor axis spans processes, several of them hold the same samples and load
the same rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from visor_jax.sharding.axis_rules import batch_sharding, samples_split

Tree = Any


def process_rows(mesh: jax.sharding.Mesh, batch_size: int) -> slice:
    """Returns the rows of every global batch that this process has to load.

    Raises:
      ValueError: if the batch does not split over the devices, or as `split_rows`.
    """
    parts = samples_split(mesh)
    if batch_size % parts:
        raise ValueError(
            f"data.batch_size={batch_size} does not split over the {parts} devices of "
            "the mesh axes data and fsdp."
        )
    held: dict[int, set[int]] = {}
    for device, (part,) in batch_sharding(mesh).devices_indices_map((parts,)).items():
        held.setdefault(device.process_index, set()).add(part.start or 0)
    return split_rows(held, batch_size)[jax.process_index()]


def split_rows(held: Mapping[int, set[int]], batch_size: int) -> dict[int, slice]:
    """Returns the rows that each process loads.

    The topology of a pod may give a process devices that do not follow one another in
    the mesh. It still loads one range, the same one every time: then the rows of a
    batch lie on the devices in another order, which changes no sum over the batch.

    Args:
      held: {process: which parts of a batch its devices hold}; each part is held.

    Raises:
      ValueError: if two processes share some of their samples and not all.
    """
    groups = sorted({tuple(sorted(parts)) for parts in held.values()})
    all_parts = [part for group in groups for part in group]
    if len(all_parts) != len(set(all_parts)) or len(set(map(len, groups))) != 1:
        raise ValueError(
            f"The mesh gives its {len(held)} processes overlapping samples: choose a "
            "tensor axis that divides the number of devices of a process, or is a "
            "multiple of it."
        )
    size = batch_size // len(groups)
    number = {process: groups.index(tuple(sorted(p))) for process, p in held.items()}
    return {process: slice(n * size, (n + 1) * size) for process, n in number.items()}


def put_rows(mesh: jax.sharding.Mesh, batch_size: int) -> Callable[[Tree], Tree]:
    """Returns a function from this process's rows to arrays of the global batch.

    Its argument is a tree of arrays with the rows of `process_rows` in front.
    """
    sharding = batch_sharding(mesh)

    def put(rows: Tree) -> Tree:
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                sharding, x, (batch_size, *x.shape[1:])
            ),
            rows,
        )

    return put


def put_whole(mesh: jax.sharding.Mesh) -> Callable[[Tree], Tree]:
    """Returns a function from whole batches, the same on all processes, to arrays."""
    sharding = batch_sharding(mesh)

    def put(batch: Tree) -> Tree:
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__),
            batch,
        )

    return put


def abstract_batch(mesh: jax.sharding.Mesh, batch: Tree) -> Tree:
    """Returns shapes, dtypes and shardings of a whole batch, to compile a step with."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=sharding
        ),
        batch,
    )
