"""Files that git-lfs has left out: a clone without it holds a short text instead.

    version https://git-lfs.github.com/spec/v1
    oid sha256:4d7a...
    size 1789001234

Whatever is read from a clone is asked for this before it is called damaged.
"""

import os
from pathlib import Path

_BEGINNING = b"version https://git-lfs"


def is_pointer(content: bytes) -> bool:
    """Returns whether this is, or begins, the text in the place of a file."""
    return content.startswith(_BEGINNING)


def check_not_pointer(file: str | os.PathLike[str]) -> None:
    """Raises ValueError if the file is a pointer; whatever else is no concern here."""
    try:
        with open(file, "rb") as opened:
            beginning = opened.read(len(_BEGINNING))
    except OSError:
        return
    if is_pointer(beginning):
        raise ValueError(what_to_do(file))


def what_to_do(file: str | os.PathLike[str]) -> str:
    """Returns the text of an error about a pointer."""
    return (
        f"{os.fspath(file)} is a pointer of git-lfs and not the file itself: run "
        f"`git lfs pull` in {Path(file).parent} (git-lfs has to be installed), or "
        "download the file."
    )
