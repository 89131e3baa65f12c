"""How a run's checkpoints lie on disk, and which of them can be read.

    <workdir>/checkpoints/<step>/params       parameters, an item of their own
                                /optimizer    optimizer state, step, base key
                                /data         position of the data iterator
                                /metadata     one JSON object (see `read_metadata`)

A step is written under a temporary name and renamed when it is complete, so a directory
whose name is a number was finished by its writer; in a bucket, where nothing can be
renamed, `commit_success.txt` is written into it at the end. A full disk or a copy that
was cut short can still damage it later; that is what `DamagedCheckpointError` is for.
"""

import difflib
import json
import os
from typing import Any

from etils import epath

from visor_jax.runtime.remote.bucket import check_bucket, is_remote

FORMAT = 1
CHECKPOINTS = "checkpoints"
PARAMS, OPTIMIZER, DATA, METADATA = "params", "optimizer", "data", "metadata"

# Of a folder, in an error about a name that is not in it.
_NEIGHBOURS = 8

# Orbax writes `<step>.orbax-checkpoint-tmp` and renames it to `<step>` at the end. In a
# bucket nothing can be renamed: there it writes this file into `<step>` at the end.
_TEMPORARY = ".orbax-checkpoint-tmp"
_FINISHED = "commit_success.txt"


class DamagedCheckpointError(ValueError):
    """A step directory that lacks files or holds files that cannot be read.

    problem: what is wrong, without the remedy.
    """

    def __init__(self, step: epath.Path, reason: str) -> None:
        self.problem = f"{step} is damaged or half written: {reason}."
        super().__init__(
            f"{self.problem} Delete this directory to go on from the checkpoint before "
            "it."
        )


def check_local(path: epath.PathLike, purpose: str) -> None:
    """Raises ValueError if what is needed as local files lies elsewhere.

    Args:
      purpose: what the path is for, e.g. "--to_hf".
    """
    if is_remote(path):
        raise ValueError(
            f"{os.fspath(path)} is not on this machine: {purpose} needs a local or "
            "mounted folder; copy the files, or mount the bucket (gcsfuse)."
        )


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns `path` made absolute, as orbax needs it; gs:// paths stay as they are.

    Raises:
      UserError: if it is of a bucket that cannot be used.
    """
    # Resolved, "gs://bucket" would become a folder of that name on this machine.
    if is_remote(path):
        check_bucket(path)
        return epath.Path(path)
    return epath.Path(path).expanduser().resolve()


def find_steps(path: epath.PathLike) -> list[epath.Path]:
    """Returns the step directories that `path` stands for, newest first.

    Args:
      path: a workdir, its `checkpoints` directory, or one step directory.

    Raises:
      ValueError: if there is no finished checkpoint, with what is there instead.
    """
    path = absolute(path)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: give a workdir or a checkpoint. {neighbours(path)}"
        )
    if not path.is_dir():
        raise ValueError(f"{path} is a file: give a workdir or a checkpoint directory.")
    if _is_temporary(path):
        raise ValueError(
            f"{path} is half written: its run was stopped while saving. Give the "
            "workdir instead, to read the newest finished checkpoint."
        )
    if is_step(path):
        return [path]
    if (path / CHECKPOINTS).is_dir():
        path = path / CHECKPOINTS
    children = list(path.iterdir())
    steps = sorted((c for c in children if is_step(c)), key=lambda c: -int(c.name))
    if not steps:
        raise ValueError(_nothing_found(path, children))
    return steps


def neighbours(path: epath.PathLike) -> str:
    """Returns what lies where `path` does not exist, the closest name first.

    "Did you mean runs/universal? runs holds universal, dense."
    """
    absent = absolute(path)
    while not absent.parent.exists() and absent.parent != absent:
        absent = absent.parent
    folder = absent.parent
    if not folder.is_dir():
        return f"{folder} is no folder."
    names = sorted(c.name for c in folder.iterdir() if not c.name.startswith("."))
    if not names:
        return f"{folder} is empty."
    close = difflib.get_close_matches(absent.name, names, n=_NEIGHBOURS, cutoff=0.5)
    ordered = [*close, *(name for name in names if name not in close)]
    shown = ", ".join(ordered[:_NEIGHBOURS])
    if len(names) > _NEIGHBOURS:
        shown += f" and {len(names) - _NEIGHBOURS} more"
    meant = f"Did you mean {folder / close[0]}? " if close else ""
    return f"{meant}{folder} holds {shown}."


def _is_temporary(path: epath.Path) -> bool:
    if is_remote(path):
        in_run = path.parent.name == CHECKPOINTS and path.name.isdecimal()
        return in_run and not (path / _FINISHED).exists()
    return _TEMPORARY in path.name


def is_step(path: epath.Path) -> bool:
    """Returns whether this is a step directory that was finished once."""
    if is_remote(path):
        return path.name.isdecimal() and (path / _FINISHED).exists()
    # A folder of data may be called "3" too. A damaged step still has one of its parts.
    marks = ("_CHECKPOINT_METADATA", PARAMS, METADATA)
    return path.name.isdecimal() and any((path / mark).exists() for mark in marks)


def _nothing_found(path: epath.Path, children: list[epath.Path]) -> str:
    if any(_is_temporary(child) for child in children):
        return (
            f"{path} holds only half-written checkpoints: the run was stopped before "
            "its first one was finished. Start the run again."
        )
    if any(child.name.endswith(".safetensors") for child in children):
        return (
            f"{path} holds Hugging Face weights, not a checkpoint of this project: "
            "convert them with `python -m visor_jax.convert` first."
        )
    return (
        f"{path} is not a checkpoint: give a workdir that holds `{CHECKPOINTS}/`, that "
        "directory, or one step inside it."
    )


def read_step_metadata(step: epath.Path) -> dict[str, Any]:
    """Returns the metadata object of one step directory.

    Raises:
      DamagedCheckpointError: if it is missing or unreadable.
      ValueError: if another program or version wrote the checkpoint.
    """
    file = step / METADATA / METADATA
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(
            step, f"{file} cannot be read ({error})"
        ) from error
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{step} has metadata format {found!r}, and this version of visor_jax "
            f"reads format {FORMAT}: open it with the version that wrote it."
        )
    return metadata
