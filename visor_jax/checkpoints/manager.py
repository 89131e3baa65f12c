"""Saves a training run while it goes on, and restores it where it stopped."""

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from visor_jax.checkpoints import layout, orbax_log
from visor_jax.checkpoints.data_position import restore_position
from visor_jax.checkpoints.restore import read_arrays
from visor_jax.runtime import disk_errors
from visor_jax.runtime.agreement import all_succeeded
from visor_jax.runtime.processes import wait_for_all

Tree = Any

_REQUIRED = ("model", "budgets", "task", "metrics_offset")
# What the native writer adds to what it says: [tensorstore_spec='{...}'].
_ASIDES = re.compile(r" \[\w+='.*", re.DOTALL)
_logger = logging.getLogger(__name__)


class SavingError(RuntimeError):
    """A checkpoint could not be written; those finished before are intact."""


class CheckpointManager:
    """The checkpoints of one workdir; every process of a run makes one.

    Saving copies the arrays and returns; files are written in the background. An error
    there surfaces at the next `save`, `check`, `wait` or `close`.
    """

    def __init__(
        self, workdir: epath.PathLike, *, save_every: int, keep: int = 2
    ) -> None:
        """Opens `<workdir>/checkpoints`, removing what a killed writer left behind.

        Args:
          workdir: directory of the run; made if it is not there.
          save_every: steps between two checkpoints.
          keep: how many of the newest checkpoints stay.
        """
        if save_every < 1 or keep < 1:
            raise ValueError(
                f"Checkpoints need {save_every=} and {keep=} of at least 1."
            )
        orbax_log.silence()
        self._save_every = save_every
        self._directory = layout.absolute(workdir) / layout.CHECKPOINTS
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def should_save(self, step: int) -> bool:
        """Returns whether a checkpoint is due after `step` steps; never at step 0."""
        return step > 0 and step % self._save_every == 0

    def save(
        self,
        step: int,
        *,
        params: Tree,
        optimizer: Tree,
        data_iterator: Iterator[Any] | None,
        metadata: Mapping[str, Any],
        force: bool = False,
    ) -> bool:
        """Returns whether a save was begun.

        Args:
          step: steps done so far.
          params: arrays.
          optimizer: arrays of everything else: optimizer state, step, base key.
          data_iterator: a grain iterator, recorded where it stands now; or None.
          metadata: JSON: "model", "budgets", "task", "metrics_offset" and more.
          force: save although none is due. A step already saved, or step 0, is not
            saved again.

        Raises:
          SavingError: if writing an earlier checkpoint failed.
        """
        self.check()
        new = step > 0 and step not in self._manager.all_steps()
        if not new or not (force or self.should_save(step)):
            return False
        items = {
            layout.PARAMS: ocp.args.StandardSave(params),
            layout.OPTIMIZER: ocp.args.StandardSave(optimizer),
            layout.METADATA: ocp.args.JsonSave(complete_metadata(metadata, step)),
        }
        if data_iterator is not None:
            # Who only reads a network does not wait for it.
            import grain

            items[layout.DATA] = grain.checkpoint.CheckpointSave(data_iterator)
        with _saving(self._directory):
            # What is due was decided above, so orbax's own policy is overruled.
            return self._manager.save(
                step, args=ocp.args.Composite(**items), force=True
            )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none.

        One that is still being written in the background counts; after a start there is
        none such, so what a killed run left unfinished is never chosen.
        """
        return self._manager.latest_step()

    def restore_training(
        self,
        abstract_params: Tree,
        abstract_optimizer: Tree,
        data_iterator: Iterator[Any] | None,
    ) -> tuple[Tree, Tree, dict[str, Any]]:
        """Returns (params, optimizer, metadata) of the newest readable checkpoint.

        A damaged one is passed over with a warning if there are older ones, and renamed
        to `<step>.damaged`, so that the run can save that step again. All processes
        read the same one: what one of them cannot read, none does.

        Args:
          abstract_params: arrays or `jax.ShapeDtypeStruct`s with CURRENT shardings.
          abstract_optimizer: the same for what was saved as `optimizer`.
          data_iterator: set, in place, to where it stood.

        Raises:
          ValueError: if there is none, if all are damaged, if one is of another model,
            or if the data was read by another number of workers (or of processes, where
            what is read depends on that).
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise ValueError(f"{self._directory} holds no finished checkpoint.")
        for step, older in itertools.pairwise([*steps, None]):
            directory, damage = self._directory / str(step), None
            try:
                metadata = layout.read_step_metadata(directory)
                if data_iterator is not None:
                    restore_position(directory, data_iterator)
                params = read_arrays(directory, layout.PARAMS, abstract_params)
                rest = read_arrays(directory, layout.OPTIMIZER, abstract_optimizer)
            except layout.DamagedCheckpointError as error:
                damage = error
            if all_succeeded(damage is None):
                return params, rest, metadata
            damage = damage or layout.DamagedCheckpointError(
                directory, "to another process"
            )
            if older is None:
                raise damage
            self._put_aside(directory, damage, older)
        raise AssertionError("a step is read or the last one's damage is raised")

    def _put_aside(
        self, directory: epath.Path, damage: layout.DamagedCheckpointError, older: int
    ) -> None:
        if jax.process_index() == 0:
            aside = directory.with_name(f"{directory.name}.damaged")
            if aside.exists():
                aside.rmtree()
            directory.rename(aside)
            _logger.warning(
                "%s It is kept as %s; going on from step %d instead.",
                damage.problem,
                aside.name,
                older,
            )
        wait_for_all(f"put {directory.name} aside")
        self._manager.reload()

    def check(self) -> None:
        """Raises SavingError if writing a checkpoint failed in the background."""
        with _saving(self._directory):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns once every checkpoint is on disk. Raises as `check`."""
        with _saving(self._directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the background threads. Raises as `check`."""
        with _saving(self._directory):
            self._manager.close()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _saving(directory: epath.Path) -> Iterator[None]:
    """Names the directory in whatever goes wrong while a checkpoint is written."""
    try:
        yield
    except Exception as error:
        # Of a disk that takes no more the native writer has a long story to tell.
        reason = disk_errors.refusal_of(error) or _ASIDES.sub("", str(error))
        raise SavingError(
            f"Writing a checkpoint to {directory} failed ({reason}). Checkpoints "
            "finished before are intact: free space or restore access, then run the "
            "same command again."
        ) from error


def complete_metadata(metadata: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Returns the metadata with format and step, as JSON values.

    Raises:
      ValueError: if a required key is lacking or a value is not JSON.
    """
    lacking = [key for key in _REQUIRED if key not in metadata]
    if lacking:
        raise ValueError(f"Checkpoint metadata lacks {lacking}.")
    complete = {**metadata, "format": layout.FORMAT, "step": step}
    try:
        return json.loads(json.dumps(complete))
    except TypeError as error:
        raise ValueError(f"Checkpoint metadata must be JSON: {error}.") from error
