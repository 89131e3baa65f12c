"""Configuration files import their neighbours from wherever the command is started.

`from configs import common` in CLONE/configs/universal.py means CLONE/configs/common.py
also where CLONE is not the folder of the shell, or where that has a `configs` too; so
it does in CLONE/configs/token_reduction/m3.py.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_CONFIGS = "configs"


@contextlib.contextmanager
def neighbours_of(file: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, the name of the file's folder is the package of that folder.

    Of a folder in a `configs`, it is `configs` that is a package. Afterwards the
    process imports as before, and knows the modules that it knew.
    """
    folder = Path(file).absolute().parent
    if folder.parent.name == _CONFIGS:
        folder = folder.parent
    finder = _OneFolder(folder)
    before = _take_out(folder.name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _take_out(folder.name)
        sys.modules.update(before)


class _OneFolder:
    """Finds one package, by the name of its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns where the package lies; None for any other, and below it."""
        if name != self._folder.name:
            return None
        return PathFinder.find_spec(name, [str(self._folder.parent)], target)


def _take_out(package: str) -> dict[str, ModuleType]:
    """Returns the modules of the package that were imported; they are so no longer."""
    names = [n for n in sys.modules if n == package or n.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}
