"""Whether results can be written where they are wanted: asked before any work.

A file of results is read again, replaced in one step and appended to. With a pipe or a
device that would hang, or replace the device by a file.
"""

import os
from collections.abc import Callable
from pathlib import Path


def check_file(place: str | os.PathLike[str], option: str) -> Path:
    """Returns the path of a file that is there or can be made.

    Args:
      option: how messages call it, e.g. "--output".

    Raises:
      ValueError: if something else has that name, or its folder is none.
    """
    return _checked(
        place,
        option,
        Path.is_file,
        "a file: name a file that is new or may be replaced (and read it afterwards, "
        "e.g. with cat)",
    )


def check_folder(place: str | os.PathLike[str], option: str) -> Path:
    """Returns the path of a folder that is there or can be made.

    Raises:
      ValueError: as `check_file` does.
    """
    return _checked(
        place,
        option,
        Path.is_dir,
        "a folder: name a folder, which is made if it is not there",
    )


def _checked(
    place: str | os.PathLike[str],
    option: str,
    fits: Callable[[Path], bool],
    wanted: str,
) -> Path:
    path = Path(place)
    if path.exists() and not fits(path):
        raise ValueError(f"{option}={place} is {_kind(path)}, not {wanted}.")
    _check_above(path, option)
    return path


def _check_above(path: Path, option: str) -> None:
    for above in path.absolute().parents:
        if above.exists():
            if not above.is_dir():
                raise ValueError(
                    f"{option}={path}: {above} is {_kind(above)}, not a folder."
                )
            return


def _kind(path: Path) -> str:
    for is_one, name in (
        (path.is_file, "a file"),
        (path.is_dir, "a folder"),
        (path.is_fifo, "a pipe"),
        (path.is_char_device, "a device"),
        (path.is_block_device, "a device"),
        (path.is_socket, "a socket"),
    ):
        if is_one():
            return name
    return "something else"
