"""One owner for a folder in a bucket (see `ownership` for those of this machine).

What is guaranteed:

- Of processes on one machine that write the same folder one owns it: they share the
  folder that stands for it here, and its lock of the system.
- Of processes on several machines one owns it. The object `.owner` is made only where
  there is none, which the bucket decides in one step, and is taken over only as it was
  read. Its owner gives signs of life; one that gives none for `SILENCE_SECONDS` is
  taken for dead. A process that is stopped for longer than that and then goes on is
  told so at its next sign of life, and writes until then.
- After kill -9 the same machine goes on at once, another one after that silence.

Whoever writes the bucket by other means than this project is not kept from it.
"""

import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from visor_jax.runtime import ownership
from visor_jax.runtime.owner import Owner, machine, this_process
from visor_jax.runtime.remote import bucket

_logger = logging.getLogger(__name__)

_NAME = ".owner"
# Between two looks at what another machine writes.
_LOOK_SECONDS = 1.0


@contextlib.contextmanager
def owned_bucket_folder(
    place: str | os.PathLike[str],
    folder: Path,
    *,
    remedy: str,
    wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Inside, this process alone owns a folder of a bucket, and the one here.

    Args:
      place: gs://BUCKET/FOLDER. folder: what stands for it on this machine.
      remedy, wait: see `owned_folder`.

    Raises:
      TakenError: if somebody else owns it.
      UserError: if the bucket cannot be written to.
    """
    wait_or_not = wait or (lambda: None)
    with contextlib.ExitStack() as here:
        try:
            here.enter_context(ownership.owned_folder(folder, remedy=remedy, wait=wait))
        except ownership.TakenError as error:
            said = str(error).replace(os.fspath(folder), os.fspath(place))
            raise ownership.TakenError(said) from error
        held = _Held(place, folder)
        while (other := held.take(wait_or_not)) is not None:
            if wait is None:
                raise ownership.TakenError(
                    f"{place} is being written by another process ({other}). {remedy}"
                )
            wait()
            time.sleep(_LOOK_SECONDS)
        with held:
            yield


class _Held:
    """The object that says who owns a place."""

    def __init__(self, place: str | os.PathLike[str], folder: Path) -> None:
        self._place, self._file = place, f"{os.fspath(place).rstrip('/')}/{_NAME}"
        self._bucket, self._name = bucket.split(self._file)
        self._files = bucket.file_system()
        # Of whoever holds the lock of this very folder.
        status = folder.stat()
        here = f"{machine()}:{status.st_dev}:{status.st_ino}"
        self._owner = dataclasses.replace(this_process(), machine=here)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def take(self, wait: Callable[[], None]) -> Owner | None:
        """Returns None once this process owns the place, else who does."""
        while True:
            with bucket.naming(self._place, verb="write"):
                try:
                    self._write("create")
                    return None
                except FileExistsError:
                    pass
            with bucket.naming(self._place):
                found, generation = self._read()
            if generation is None:
                continue
            # The lock of the folder here was theirs, and is not any more.
            of_here = found is not None and found.machine == self._owner.machine
            if not of_here:
                if not self._is_silent(generation, found, wait):
                    return found
                _logger.warning("%s is gone: %s is taken over", found, self._place)
            with bucket.naming(self._place, verb="write"):
                self._remove(generation)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        # Another's, or a bucket that is away: theirs to see to.
        with contextlib.suppress(Exception):
            found, generation = self._read()
            if found is not None and found.token == self._owner.token:
                self._remove(generation)

    def _write(self, mode: str) -> None:
        content = json.dumps(dataclasses.asdict(self._owner)).encode()
        self._files.pipe_file(self._file, content, mode=mode)

    def _read(self) -> tuple[Owner | None, str | None]:
        """Returns who the object names and its generation; None if it is not there."""
        path = ("b/{}/o/{}", self._bucket, self._name)
        try:
            described: Any = self._files.call("GET", *path, json_out=True)
            _, content = self._files.call("GET", *path, alt="media")
        except FileNotFoundError:
            return None, None
        try:
            return Owner(**json.loads(content)), described["generation"]
        except (ValueError, TypeError):
            return None, described["generation"]

    def _remove(self, generation: str | None) -> None:
        """Removes the object if it is as it was read."""
        # Gone, or somebody else's by now.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            self._files.call(
                *("DELETE", "b/{}/o/{}", self._bucket, self._name),
                ifGenerationMatch=generation,
            )

    def _is_silent(
        self, generation: str, owner: Owner | None, wait: Callable[[], None]
    ) -> bool:
        """Returns whether the object stays as it is for as long as a sign may take."""
        _logger.info(
            "%s may still write %s: waiting up to %.0f s for a sign of life",
            owner,
            self._place,
            ownership.SILENCE_SECONDS,
        )
        end = time.monotonic() + ownership.SILENCE_SECONDS
        while time.monotonic() < end:
            wait()
            time.sleep(_LOOK_SECONDS)
            with bucket.naming(self._place):
                _, found = self._read()
            if found != generation:
                # None: they have just left.
                return found is None
        return True

    def _live(self) -> None:
        """Gives signs of life to other machines."""
        while not self._ended.wait(ownership.BEAT_SECONDS):
            # A bucket that is away for a moment: the next sign comes.
            with contextlib.suppress(Exception):
                found, _ = self._read()
                if found is None or found.token != self._owner.token:
                    _logger.warning(
                        "%s was taken from this process by another (%s)",
                        self._place,
                        found or "unknown",
                    )
                    return
                beats = self._owner.beats + 1
                self._owner = dataclasses.replace(self._owner, beats=beats)
                self._write("overwrite")
