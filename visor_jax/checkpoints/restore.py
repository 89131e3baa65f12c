"""Opens a checkpoint from a path alone, on whatever devices this process has."""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from visor_jax.checkpoints import layout, orbax_log
from visor_jax.checkpoints.tree_report import differences

Result = TypeVar("Result")

# As much as one file of a large checkpoint holds.
_GB_AT_ONCE = 4
_logger = logging.getLogger(__name__)


def newest_readable(
    path: epath.PathLike, read: Callable[[epath.Path], Result]
) -> Result:
    """Returns what `read` makes of the newest step directory that it can read.

    A step over which it raises `DamagedCheckpointError` is passed over with a warning
    when `path` holds older ones. A run at work removes its older steps, perhaps while
    one is read: that is no damage, and what is newest by then is read. Whatever
    belongs together (metadata, parameters, the files beside them) is to be read in one
    call: only then is it of one step.

    Args:
      path: a workdir, its `checkpoints` directory, or one step directory.

    Raises:
      ValueError: if `path` is not a checkpoint, is half written or damaged, is one step
        that was removed meanwhile, or whatever `read` raises.
    """
    orbax_log.silence()
    steps = layout.find_steps(path)
    while True:
        try:
            return _first_readable(steps, read)
        except _RemovedError as removed:
            steps = _newer_steps(path, removed)
            _logger.info("%s Reading %s.", removed, steps[0])


class _RemovedError(Exception):
    """A step that its run removed while it was read."""

    def __init__(self, step: epath.Path) -> None:
        super().__init__(f"{step} was removed by its run while it was read.")
        self.step = step


def _first_readable(
    steps: Sequence[epath.Path], read: Callable[[epath.Path], Result]
) -> Result:
    """Returns what `read` makes of the first step that it can read.

    Raises:
      DamagedCheckpointError: of the last one.
      _RemovedError: if the step that cannot be read is there no more, or is on its way
        out: its run has finished a newer one.
    """
    newest = _newest_beside(steps[0])
    for step, older in itertools.pairwise([*steps, None]):
        try:
            return read(step)
        except layout.DamagedCheckpointError as error:
            if not step.exists() or _newest_beside(step) > newest:
                raise _RemovedError(step) from error
            if older is None:
                raise
            _logger.warning("%s Reading %s instead.", error, older)
    raise AssertionError("find_steps returned no step")


def _newest_beside(step: epath.Path) -> int:
    numbers = [int(each.name) for each in step.parent.iterdir() if layout.is_step(each)]
    return max(numbers, default=-1)


def _newer_steps(path: epath.PathLike, removed: _RemovedError) -> list[epath.Path]:
    """Returns what `path` holds by now. Raises ValueError if it was that step."""
    if layout.absolute(path) == removed.step:
        raise ValueError(
            f"{removed} Give its workdir instead, to read the newest checkpoint."
        ) from removed
    return layout.find_steps(path)


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
    """Returns the metadata of the newest readable checkpoint under `path`.

    Of the newest one with readable metadata, that is: to read parameters of the same
    step, use `newest_readable` (`stored_network` for a network's).

    Keys: "format", "step", "model" (`VLMConfig.to_dict`), "budgets" (names, in class
    order), "task", "metrics_offset" and whatever else the run recorded.

    Args:
      path: a workdir, its `checkpoints` directory, or one step directory.

    Raises:
      ValueError: as `newest_readable`.
    """
    return newest_readable(path, layout.read_step_metadata)


def read_arrays(step: epath.Path, item: str, abstract: Any) -> Any:
    """Returns the arrays of one item ("params", "optimizer") of a step directory.

    Args:
      abstract: arrays or `jax.ShapeDtypeStruct`s, all of them, with the wanted dtypes
        and shardings; without a sharding an array goes to this process's first device.

    Raises:
      DamagedCheckpointError: if files are missing or cut short.
      ValueError: if the item does not fit `abstract`.
    """
    with _reader(ocp.StandardCheckpointHandler()) as checkpointer:
        found = _listed(checkpointer, step, item)
        check_fits(step, item, found, abstract)
        target = jax.tree.map(_on_current_devices, abstract)
        with _reading(step, item):
            restore = ocp.args.StandardRestore(target)
            return checkpointer.restore(step / item, args=restore)


def read_part(step: epath.Path, item: str, abstract: Any) -> Any:
    """Returns the arrays that `abstract` names, of an item that may hold others too.

    Each is read straight into its dtype and onto its devices; others are not read.

    Args:
      abstract: nested dicts of `jax.ShapeDtypeStruct`s, of the shapes that are stored.

    Raises:
      DamagedCheckpointError: if files are missing or cut short.
    """
    target = jax.tree.map(_on_current_devices, abstract)
    restore = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=gb_at_once(target))
    with _reader(handler) as checkpointer, _reading(step, item):
        return checkpointer.restore(step / item, args=restore)


def gb_at_once(arrays: Any) -> int:
    """Returns how many GB of arrays are read at once: on their way they are in this
    host's memory, whatever devices they go to.

    More than the largest of them takes, of 4 bytes a number; less would be refused.
    """
    largest = max((math.prod(x.shape) for x in jax.tree.leaves(arrays)), default=0)
    return max(_GB_AT_ONCE, 1 + 4 * largest // 10**9)


def list_arrays(step: epath.Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {"a/b/kernel": shape and dtype} of one item of a step directory.

    Raises:
      DamagedCheckpointError: if its list of arrays cannot be read.
    """
    orbax_log.silence()
    with _reader(ocp.StandardCheckpointHandler()) as checkpointer:
        tree = jax.tree.map(_as_saved, _listed(checkpointer, step, item))
    return flax.traverse_util.flatten_dict(tree, sep="/")


def read_some_arrays(
    step: epath.Path, item: str, paths: Iterable[str]
) -> dict[str, np.ndarray]:
    """Returns the arrays with these paths, whole and on the host, and reads no others.

    Raises:
      DamagedCheckpointError: if files are missing or cut short.
    """
    wanted = flax.traverse_util.unflatten_dict(dict.fromkeys(paths, 0), sep="/")
    if not wanted:
        return {}
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    restore = ocp.args.PyTreeRestore(
        item=wanted, restore_args=on_host, partial_restore=True
    )
    checkpointer = _reader(ocp.PyTreeCheckpointHandler())
    with checkpointer, _reading(step, item):
        found = checkpointer.restore(step / item, args=restore)
    return flax.traverse_util.flatten_dict(found, sep="/")


def _reader(handler: ocp.CheckpointHandler) -> ocp.Checkpointer:
    """Returns a checkpointer that reads for this process alone.

    By default orbax lets the processes of a run wait for one another after reading, and
    one that failed to read would be waited for in vain.
    """
    this = jax.process_index()
    return ocp.Checkpointer(
        handler,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=this, active_processes={this}
        ),
    )


def _listed(checkpointer: ocp.Checkpointer, step: epath.Path, item: str) -> Any:
    with _reading(step, item):
        listing = checkpointer.metadata(step / item).item_metadata
        if listing is None:
            raise FileNotFoundError("its list of arrays is missing")
        return listing.tree


@contextlib.contextmanager
def _reading(step: epath.Path, item: str) -> Iterator[None]:
    """Turns what orbax raises over missing and truncated files into our error."""
    try:
        yield
    except (MemoryError, RuntimeError):
        # Device memory, for one: it says nothing about the checkpoint.
        raise
    except Exception as error:
        # Orbax wraps tensorstore's short reason in a dump of the array's description.
        reason = str(error.__cause__ or error).strip() or type(error).__name__
        first_line = reason.splitlines()[0][:300]
        raise layout.DamagedCheckpointError(step, f"{item}: {first_line}") from error


def check_fits(step: epath.Path, item: str, found: Any, expected: Any) -> None:
    """Raises ValueError, listing every key, unless `found` has the expected arrays."""
    report = differences(found, expected)
    if report:
        raise ValueError(
            f"{step} is of another model: its {item} differ from what is asked for. "
            "Use the model configuration stored in the checkpoint, or another "
            f"checkpoint.{report}"
        )


def _as_saved(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _on_current_devices(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
