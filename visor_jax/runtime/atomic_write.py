"""Writes a file in one step: whoever reads it finds the old content or the new, whole.

The new content grows in the same folder under a name that no other process or thread
uses, reaches the disk and takes the file's place. Of several runs that write the same
file the last one wins and none fails; a writer that raises leaves nothing behind.
"""

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from visor_jax.runtime import disk_errors

# Of the name under which new content grows.
ENDING = ".unfinished"


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an unused name beside the file; what is written there becomes the file.

    For writers that want a name, once the block ends without an error; `write_file`
    serves those that want a stream.
    """
    file = Path(file)
    writer = f"{os.getpid()}-{threading.get_ident()}-{secrets.token_hex(4)}"
    temporary = file.with_name(f".{file.name}.{writer}{ENDING}")
    try:
        with disk_errors.naming(file, instead_of=temporary):
            yield temporary
            with temporary.open("rb+") as content:
                os.fsync(content.fileno())
            os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _keep_entries(file.parent)


def write_file(
    file: str | os.PathLike[str], write: Callable[[BinaryIO], object]
) -> None:
    """Writes a file whose bytes `write` puts into the stream that it is called with.

    Raises:
      OSError: with the file's name, also where the disk is full.
    """
    # "+": into what can be read as well NumPy writes by Python's own calls, whose
    # errors say what is wrong; those of its C code say that bytes are lacking.
    with replacing(file) as temporary, temporary.open("x+b") as stream:
        write(stream)


def write_bytes(file: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file of these bytes."""
    write_file(file, lambda stream: stream.write(content))


def write_text(file: str | os.PathLike[str], text: str) -> None:
    """Writes a file of this text, as UTF-8."""
    write_bytes(file, text.encode())


def write_json(file: str | os.PathLike[str], content: Any) -> None:
    """Writes a file of JSON for people to read: a value a line."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def remove_unfinished(file: str | os.PathLike[str]) -> None:
    """Removes what writers of this file left behind when they were killed.

    Only where nobody else can be writing it now.
    """
    file = Path(file)
    for found in file.parent.iterdir():
        if found.name.startswith(f".{file.name}.") and found.name.endswith(ENDING):
            found.unlink(missing_ok=True)


def _keep_entries(folder: Path) -> None:
    """Brings the folder's new name to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
