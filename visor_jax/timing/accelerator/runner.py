"""Runs a part in a process of its own, which is ended when its time is up.

A part prints one JSON object a line: its rows, and last how it ended. Whatever else it
prints, and its stderr, goes into a log. Nothing that hangs in a driver or a compiler,
or that takes the process with it, costs more than its own part.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO

from visor_jax.timing.accelerator.record import STATUSES, PartRecord

# Between the end of a part's time, which it is told and keeps if it can, and its death.
GRACE = 5.0
# The key of the line with which a part says how it ended.
END = "end"


def run_part(
    part: PartRecord,
    command: Sequence[str],
    *,
    limit_s: float,
    log: IO[bytes],
    on_row: Callable[[], None],
) -> None:
    """Fills in the part by running the command; never raises for what that does.

    Args:
      limit_s: after so many seconds the command and all its children are killed.
      on_row: called after every row.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    try:
        in_time = _read(part, process.stdout, began + limit_s, log, on_row)
        if in_time:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, began + limit_s - time.monotonic()))
    finally:
        _kill(process)
    part.seconds = time.monotonic() - began
    if part.status is None and part.seconds >= limit_s:
        part.status, part.reason = "timeout", f"cut after {limit_s:.0f} s"
    elif part.status is None:
        part.status = "failed"
        part.reason = f"exit code {process.returncode}, see the log"


def _read(
    part: PartRecord, output: IO[bytes], end: float, log: IO[bytes], on_row: Callable
) -> bool:
    """Returns whether the output ended in time; its rows are then in the part."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            chunk = os.read(output.fileno(), 1 << 16)
            if not chunk:
                return True
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                _take(part, line, log, on_row)
    return False


def _take(part: PartRecord, line: bytes, log: IO[bytes], on_row: Callable) -> None:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        log.write(line + b"\n")
        log.flush()
    elif row.get(END) in STATUSES:
        part.status, part.reason = row[END], row.get("reason")
    else:
        part.rows.append(row)
        on_row()


def _kill(process: subprocess.Popen) -> None:
    # Its children, too: they are of its session. The session's leader may be gone.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A driver can hold the dead for long, and the others' time runs.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE / 2)
    process.stdout.close()
