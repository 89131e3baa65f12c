"""Finds the folder that a path or a Hub id stands for."""

import os
import re
from pathlib import Path

from visor_jax.checkpoints import layout

# No pickled weights and no code are ever downloaded.
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(path_or_id: str | os.PathLike, *, revision: str | None = None) -> Path:
    """Returns a local folder with the files of a model.

    Args:
      path_or_id: a folder, or `owner/name` on the Hugging Face Hub, of which
        safetensors, JSON and tokenizer files are downloaded.
      revision: of a Hub id: branch, tag or commit.

    Raises:
      ValueError: if it is neither, or cannot be downloaded.
    """
    layout.check_local(path_or_id, "reading a model of Hugging Face")
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder.resolve()
    name = os.fspath(path_or_id)
    if folder.exists():
        raise ValueError(f"{name} is a file: give the folder that holds config.json.")
    if not is_hub_id(name):
        raise ValueError(
            f"{name!r} does not exist, and is no Hub id (owner/name) either: "
            f"{layout.neighbours(folder)}"
        )
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(_WANTED)
            )
        )
    # Connections, permissions and unknown names raise classes of several libraries.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name!r} is no folder here, and downloading it from the Hugging Face Hub "
            f"failed: {reason}"
        ) from error


def is_hub_id(name: str) -> bool:
    """Returns whether a text is to be asked of the Hub: `owner/name`.

    Where a folder of the owner's name lies here, it is a path: nobody who mistypes
    "runs/universal" means a model of "runs", or wants to ask strangers for one.
    """
    return _HUB_ID.fullmatch(name) is not None and not Path(name).parent.is_dir()
