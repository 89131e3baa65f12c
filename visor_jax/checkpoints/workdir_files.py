"""Writes a checkpoint that no training run made: parameters and metadata, step 0.

It lies as a run's checkpoints do (`visor_jax.checkpoints.layout`), without optimizer
and data position, so that whatever opens one opens the other. Files that belong to the
text and image processing are kept in the workdir's `tokenizer/`.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from visor_jax.checkpoints import layout, orbax_log
from visor_jax.checkpoints.manager import complete_metadata
from visor_jax.data.prompts.tokenizer import TOKENIZER
from visor_jax.runtime.ownership import is_of_an_owner

Params = Any

# The file of it without which no text can be read.
NEEDED = "tokenizer.json"
# Files of a Hugging Face folder that say how text and images are prepared.
PROCESSING_FILES = (
    *(NEEDED, "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.json", "chat_template.jinja", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)
# Arrays are copied on their way to the disk; at most so many GB at a time.
_COPIED_GB = 0.3
# Bytes that are compressed as one piece: a whole table of embeddings would be another
# copy in memory.
_CHUNK = 2**25


def check_empty(folder: epath.PathLike) -> epath.Path:
    """Returns the absolute path of a folder that is new or empty.

    Raises:
      ValueError: if there is something in it, or a file of that name.
    """
    folder = layout.absolute(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give a new one.")
    content = folder.iterdir() if folder.exists() else ()
    if any(not is_of_an_owner(file) for file in content):
        raise ValueError(f"{folder} is not empty: give a new folder, or empty it.")
    return folder


def write_step_0(
    workdir: epath.PathLike, params: Params, metadata: Mapping[str, Any]
) -> epath.Path:
    """Returns the step directory after writing it; it appears when it is complete.

    Args:
      params: arrays; in pieces of bounded size they are copied while being written.
      metadata: as for `CheckpointManager.save`.
    """
    orbax_log.silence()
    directory = layout.absolute(workdir) / layout.CHECKPOINTS / "0"
    handler = ocp.CompositeCheckpointHandler(
        **{
            layout.PARAMS: ocp.PyTreeCheckpointHandler(save_concurrent_gb=_COPIED_GB),
            layout.METADATA: ocp.JsonCheckpointHandler(),
        }
    )
    in_chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params)
    items = {
        layout.PARAMS: ocp.args.PyTreeSave(params, save_args=in_chunks),
        layout.METADATA: ocp.args.JsonSave(complete_metadata(metadata, 0)),
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(directory, args=ocp.args.Composite(**items))
    return directory


def copy_files(
    names: Iterable[str], source: epath.PathLike, target: epath.PathLike
) -> list[str]:
    """Returns the names that `source` has, after copying those files to `target`."""
    source, target = epath.Path(source), epath.Path(target)
    present = [name for name in names if (source / name).exists()]
    if present:
        target.mkdir(parents=True, exist_ok=True)
    for name in present:
        (source / name).copy(target / name, overwrite=True)
    return present


def processing_folder(step: epath.PathLike) -> epath.Path:
    """Returns the folder of tokenizer and processor files beside a step directory."""
    return epath.Path(step).parents[1] / TOKENIZER


def local_processing_folder(
    step: epath.PathLike,
) -> contextlib.AbstractContextManager[Path]:
    """Yields `processing_folder`, or a copy if it is not on this machine."""
    return local_processing_files(processing_folder(step))


@contextlib.contextmanager
def local_processing_files(folder: epath.PathLike) -> Iterator[Path]:
    """Yields a folder of processing files, or a copy if it is not on this machine.

    Libraries that read these files know no other file system.
    """
    if not layout.is_remote(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / TOKENIZER
        copy_files(PROCESSING_FILES, folder, copy)
        yield copy
