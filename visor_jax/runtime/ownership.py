"""One owner for whatever writes a place: a file, or a folder with all that is in it.

    with owned_folder("runs/universal"):      # the second raises TakenError: who has it
        ...

Who owns a place holds a lock of the system on a small file (`.owner` in a folder,
`.answers.jsonl.owner` beside a file). The system lets go of it however the process
ends, so that nothing is left to clean up after kill -9 or a power cut.

Network folders may not pass such locks on to other machines, or not have them at all.
There the file's content counts: who it is, and a number that grows while they live.
What another machine wrote is watched for a while; if nothing changes, its writer is
gone. (Clocks of two machines are never compared.)
"""

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from visor_jax.runtime.owner import (
    Owner,
    machine,
    read_owner,
    this_process,
    write_owner,
)
from visor_jax.runtime.user_error import UserError

_logger = logging.getLogger(__name__)

_ENDING = ".owner"
# Seconds between two signs of life, and without one until an owner on another machine
# is taken for dead: mounted buckets show what is written up to a minute late.
BEAT_SECONDS, SILENCE_SECONDS = 15.0, 75.0
# Between two looks at a place that somebody else has.
_LOOK_SECONDS = 0.2
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class TakenError(UserError):
    """Somebody else writes the place; the message says who, where that is known."""


def owned_folder(
    folder: str | os.PathLike[str],
    *,
    remedy: str = "Wait for it, stop it, or give another folder.",
    wait: Callable[[], None] | None = None,
) -> contextlib.AbstractContextManager[None]:
    """Inside, this process alone owns the folder, which is made if it is not there.

    A folder that is still empty at the end goes again.

    Args:
      remedy: the last sentence of the error.
      wait: None to raise where somebody else owns it; else called again and again
        until they do not, and free to raise what ends the waiting.

    Raises:
      TakenError: if somebody else owns it. OSError: if it cannot be written to.
      ValueError: if it is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder.")
    return _owned(folder, folder / _ENDING, folder, remedy, wait)


def owned_file(
    file: str | os.PathLike[str],
    *,
    remedy: str = "Wait for it, stop it, or give another file.",
    wait: Callable[[], None] | None = None,
) -> contextlib.AbstractContextManager[None]:
    """Inside, this process alone owns the file. As `owned_folder`."""
    file = Path(file)
    beside = file.with_name(f".{file.name}{_ENDING}")
    return _owned(file, beside, file.parent, remedy, wait)


def is_of_an_owner(file: PurePath) -> bool:
    """Returns whether the file only says who owns a place, and is no content of it."""
    return file.name.startswith(".") and file.name.endswith(_ENDING)


@contextlib.contextmanager
def _owned(
    place: Path,
    file: Path,
    folder: Path,
    remedy: str,
    wait: Callable[[], None] | None,
) -> Iterator[None]:
    is_new = not folder.exists()
    said = False
    try:
        while True:
            # Whoever owned the folder before may have taken it away.
            folder.mkdir(parents=True, exist_ok=True)
            held = _Held.of(file, wait or _do_nothing)
            if isinstance(held, _Held):
                break
            who = f"another process ({held})" if held else "another process"
            if wait is None:
                raise TakenError(f"{place} is being written by {who}. {remedy}")
            if not said:
                _logger.info("waiting for %s, which writes %s", who, place)
            said = True
            wait()
            time.sleep(_LOOK_SECONDS)
        with held:
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Held:
    """A place that this process owns, until the end of a `with`."""

    def __init__(self, file: Path, descriptor: int, owner: Owner) -> None:
        self._file, self._descriptor, self._owner = file, descriptor, owner
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    @classmethod
    def of(cls, file: Path, wait: Callable[[], None]) -> "_Held | Owner | None":
        """Returns the place, or who has it instead, as far as that is known."""
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                is_locked = _lock(descriptor)
                if is_locked is False:
                    return read_owner(file)
                if not _is_named(descriptor, file):
                    continue  # Its owner was just leaving, and took the name along.
                before = read_owner(file)
                if before and not (is_locked and before.machine == machine()):
                    if not _is_gone(file, before, wait):
                        return read_owner(file) or before
                    _logger.warning("%s is gone: %s is taken over", before, file.parent)
                owner = this_process()
                write_owner(descriptor, owner)
                if not is_locked and not _stays(file, owner):
                    return read_owner(file)
                held, descriptor = cls(file, descriptor, owner), -1
                return held
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def __enter__(self) -> "_Held":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._is_own():
            with contextlib.suppress(OSError):
                self._file.unlink()
        os.close(self._descriptor)

    def _live(self) -> None:
        """Gives signs of life to other machines."""
        while not self._ended.wait(BEAT_SECONDS):
            if not self._is_own():
                _logger.warning(
                    "%s was taken from this process by another (%s)",
                    self._file.parent,
                    read_owner(self._file) or "unknown",
                )
                return
            beats = self._owner.beats + 1
            self._owner = dataclasses.replace(self._owner, beats=beats)
            # A disk that is full or away for a moment: the next sign comes.
            with contextlib.suppress(OSError):
                write_owner(self._descriptor, self._owner)

    def _is_own(self) -> bool:
        found = read_owner(self._file)
        return found is not None and found.token == self._owner.token


def _lock(descriptor: int) -> bool | None:
    """Returns whether the lock is ours now; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno == errno.EACCES:
            return False
        raise
    return True


def _is_named(descriptor: int, file: Path) -> bool:
    """Returns whether the open file is still what the name stands for."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _do_nothing() -> None:
    pass


def _is_gone(file: Path, owner: Owner, wait: Callable[[], None]) -> bool:
    """Returns whether an owner gives no sign of life for as long as one may take."""
    _logger.info(
        "%s may still write %s: waiting up to %.0f s for a sign of life",
        owner,
        file.parent,
        SILENCE_SECONDS,
    )
    end = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < end:
        wait()
        time.sleep(_LOOK_SECONDS)
        found = read_owner(file)
        if found is None or found != owner:
            # None: it has just left. It will not be the only one to notice.
            return found is None
    return True


def _stays(file: Path, owner: Owner) -> bool:
    """Returns whether a record is still there after others had time to write theirs."""
    time.sleep(2 * _LOOK_SECONDS)
    found = read_owner(file)
    return found is not None and found.token == owner.token
