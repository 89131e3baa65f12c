"""Keeps orbax's running commentary out of the program's output.

Whatever fails reaches the caller as an exception. Before that orbax logs every part
that failed with its traceback, asyncio every other part that nobody asked for, and the
native writer that nobody listens any more: hundreds of tracebacks about one full disk,
and the message for people among them.
"""

import logging
import sys
import traceback
from typing import Any

from absl import logging as absl_logging

_ORBAX, _ASYNCIO = "/orbax/", "/asyncio/"


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    # Orbax writes to the logger that all absl programs share, so its records are told
    # by the file they come from.
    return _ORBAX not in _path(record.pathname)


def _was_asked_for(record: logging.LogRecord) -> bool:
    if "exception was never retrieved" not in record.getMessage():
        return True
    error = record.exc_info[1] if record.exc_info else None
    files = _files(None if error is None else error.__traceback__)
    return not any(_ORBAX in file for file in files)


def silence() -> None:
    """Drops what orbax leaves on stderr; calling it again changes nothing."""
    for logger, rule in (
        (absl_logging.get_absl_logger(), _is_not_of_orbax),
        (logging.getLogger("asyncio"), _was_asked_for),
    ):
        if rule not in logger.filters:
            logger.addFilter(rule)
    if not isinstance(sys.unraisablehook, _NobodyListens):
        sys.unraisablehook = _NobodyListens()


class _NobodyListens:
    """An unraisablehook that keeps quiet about news for an event loop that has closed.

    The native writer brings them from threads of its own. An error of Python's code has
    frames of that code.
    """

    def __init__(self) -> None:
        self._other = sys.unraisablehook

    def __call__(self, unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        files = _files(unraisable.exc_traceback)
        if not (closed and all(_ASYNCIO in file for file in files)):
            self._other(unraisable)


def _files(trace: Any) -> list[str]:
    return [_path(frame.filename) for frame in traceback.extract_tb(trace)]


def _path(name: str) -> str:
    return name.replace("\\", "/")
