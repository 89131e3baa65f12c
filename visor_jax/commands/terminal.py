"""The streams of a command: what they cannot show, who speaks, who listens."""

import contextlib
import logging
import os
import select
import sys
from typing import IO

# What a shell reports of a program that a closed pipe has ended.
CLOSED_PIPE = 141


def show_everything() -> None:
    """Lets stdout and stderr show what their encoding lacks as escapes (\\u2192).

    A terminal's encoding is no reason to lose an answer.
    """
    for stream in (sys.stdout, sys.stderr):
        # A stream that something else took the place of, or that is closed, has none.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _PlainHandler(logging.Handler):
    """Prints the bare message to what is stderr now; a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def quieten_libraries() -> None:
    """Leaves stderr to this project: libraries speak only of errors."""
    # Read by the native libraries when they start, so before any device is touched.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    own = logging.getLogger("visor_jax")
    own.handlers[:] = [_PlainHandler()]
    own.setLevel(logging.INFO)
    own.propagate = False


def nobody_reads() -> bool:
    """Returns whether the other end of stdout or stderr was closed (`... | head`)."""
    return any(_is_closed(stream) for stream in (sys.stdout, sys.stderr))


def stop_writing() -> None:
    """Sends whatever is still to be written nowhere, also at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _is_closed(stream):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_closed(stream: IO[str] | None) -> bool:
    if stream is None:
        return False
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
