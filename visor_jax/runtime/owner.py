"""Who writes a place, as a small file says it (see `ownership`)."""

import dataclasses
import datetime
import json
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

# Of the file: written in one piece, so that readers find a whole record.
_RECORD_BYTES = 4096
_COMMAND_CHARACTERS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Who writes a place.

    since: when they began, by their own clock. machine: the same for processes that
    have one kernel in common. token: of this ownership alone. beats: signs of life.
    """

    host: str
    pid: int
    command: str
    since: str
    machine: str
    token: str
    beats: int = 0

    def __str__(self) -> str:
        return f"{self.host}, pid {self.pid}, since {self.since}: {self.command}"


def read_owner(file: Path) -> Owner | None:
    """Returns who it is that a file names; None if nobody, or not yet."""
    try:
        fields: Any = json.loads(file.read_bytes())
        return Owner(**fields)
    except (OSError, ValueError, TypeError):
        return None


def write_owner(descriptor: int, owner: Owner) -> None:
    """Writes the record into an open file, through to the disk."""
    text = json.dumps(dataclasses.asdict(owner)).encode()
    os.pwrite(descriptor, text.ljust(_RECORD_BYTES) + b"\n", 0)
    os.fsync(descriptor)


def this_process() -> Owner:
    """Returns this process as the owner of one place, from now on."""
    now = datetime.datetime.now(datetime.UTC)
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        command=shlex.join(sys.orig_argv)[:_COMMAND_CHARACTERS],
        since=now.isoformat(timespec="seconds"),
        machine=machine(),
        token=secrets.token_hex(8),
    )


def machine() -> str:
    """Returns the same for all processes of one running kernel, containers or not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
