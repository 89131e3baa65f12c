"""What takes long to make is kept in a file: many read it, one makes it.

A file that is damaged, in whatever way, is made again.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from visor_jax.runtime.ownership import owned_file

T = TypeVar("T")

_logger = logging.getLogger(__name__)


def read_or_make(
    file: Path,
    read: Callable[[], T | None],
    make: Callable[[], T],
    *,
    wait: Callable[[], None] = lambda: None,
    damaged: Callable[[Exception], None] | None = None,
) -> T:
    """Returns what is kept, or makes it while others who want it wait.

    Args:
      file: that the place is called by; its folder is made if it is not there.
      read: returns None if there is nothing. Whatever it raises means damage: what the
        libraries make of mutilated bytes no list of exceptions holds.
      make: makes and keeps it.
      wait: called while another process makes it; may raise to stop waiting.
      damaged: told of damage before it is made again; None to log it.

    Raises:
      OSError: if nothing is kept and the folder cannot be written to.
    """
    try:
        # Of what another is writing just now, half may be there: not worth a word yet.
        found = read()
    except Exception:
        found = None
    if found is not None:
        return found
    with owned_file(file, wait=wait):
        try:
            found = read()
        except Exception as error:
            if damaged is not None:
                damaged(error)
            else:
                _logger.warning("%s is damaged (%s): it is made again", file, error)
        return make() if found is None else found
