"""What the processes of one run tell each other beside devices and barriers.

A process that waits for another in native code learns nothing until a time-out ends it.
Here a thread of each looks at a board that the coordinator keeps, several times a
second: one that fails writes why, and the others end with its message; one that is told
to stop writes so, and all of them find the step after which they do.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import orbax.checkpoint as ocp

_FOLDER = "visor_jax/"
FAILED, _STOP = "failed", "stop"
# Between two looks at the board.
_PERIOD_SECONDS = 0.25
# So long one may go on that hears of another's failure: it may be about to say so.
_GRACE_SECONDS = 2.0
# So long one that leaves waits for the others, which lose the board with process 0.
_FAREWELL_SECONDS = 10.0


class Board(Protocol):
    """Texts by name that all processes see; jax's client of the coordinator is one."""

    def key_value_set(self, key: str, value: str) -> None:
        """Raises an exception if there is such a text already."""
        ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Returns all (name, text) below a folder."""
        ...


class Stopper(Protocol):
    """Who decides in this process when it stops."""

    @property
    def wanted(self) -> str | None:
        """Name of the signal by which this process is told to stop, None if none."""
        ...

    def stop_together(self, signal_name: str, peers: "Peers") -> None:
        """Called once, in the watching thread, when some process is told to stop."""
        ...


class Peers:
    """This process among the others of its run."""

    def __init__(
        self,
        board: Board,
        index: int,
        count: int,
        *,
        end: Callable[[int], object] = os._exit,
        grace_s: float = _GRACE_SECONDS,
    ) -> None:
        """Begins to watch the board.

        Args:
          index: of this process, of `count`.
          end: ends the process at once, with an exit code.
        """
        self.index, self.count = index, count
        self._board, self._end, self._grace_s = board, end, grace_s
        self._stopper: Stopper | None = None
        self._leaving, self._closed = threading.Event(), threading.Event()
        self._following = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def listen(self, stopper: Stopper) -> None:
        """Lets it hear of a stop, also of one that was asked for before."""
        self._stopper = stopper

    def post(self, name: str, text: str) -> None:
        """Writes to the board; what is there already stays."""
        with contextlib.suppress(Exception):  # Also where the coordinator has gone.
            self._board.key_value_set(_FOLDER + name, text)

    def read(self) -> Mapping[str, str]:
        """Returns everything on the board; nothing if the coordinator has gone."""
        with contextlib.suppress(Exception):
            found = self._board.key_value_dir_get(_FOLDER)
            return {name.removeprefix(_FOLDER): text for name, text in found}
        return {}

    def failure(self) -> tuple[str, int] | None:
        """Returns (message, exit code) of another process that has failed, if one has.

        The code is 0 for one that was told to stop before there was anything to save.
        """
        text = self.read().get(FAILED)
        if text is None or (said := json.loads(text))["process"] == self.index:
            return None
        if said["code"] == 0:
            return said["message"], 0
        who = f"process {said['process']} of {self.count}"
        return f"{who} failed: {said['message']}", said["code"]

    def wait_if_following(self) -> None:
        """Returns unless the watch is ending this process already, and has said why."""
        if self._following.is_set():
            self._thread.join()

    def leave(self, message: str, code: int) -> NoReturn:
        """Ends this process before its work is done, once the others know why.

        What is printed is for the caller.
        """
        self._leaving.set()
        said = {"process": self.index, "code": code, "message": message}
        self.post(FAILED, json.dumps(said))
        self._say_farewell()
        self._leave_now(code)

    def close(self) -> None:
        """Looks no more; for a process that ends as it should."""
        self._closed.set()
        self._thread.join(2 * _PERIOD_SECONDS)

    def _watch(self) -> None:
        told = False
        while not self._closed.wait(_PERIOD_SECONDS):
            stopper = self._stopper
            if not told and stopper is not None and stopper.wanted is not None:
                self.post(_STOP, stopper.wanted)
            seen = self.read()
            if FAILED in seen and not self._leaving.is_set():
                self._follow()
            if _STOP in seen and stopper is not None and not told:
                told = True
                stopper.stop_together(seen[_STOP], self)

    def _follow(self) -> None:
        """Ends this process as another has ended, unless it does so by itself."""
        found = self.failure()
        if found is None or self._leaving.wait(self._grace_s) or self._closed.is_set():
            return
        self._following.set()
        message, code = found
        said = f"error: {message}" if code else message
        print(said, file=sys.stderr if code else sys.stdout, flush=True)
        self._say_farewell()
        self._leave_now(code)

    def _say_farewell(self) -> None:
        """Returns when all others have come as far, or too late.

        The first process holds the board, and jax aborts those whose board has gone: it
        is the last to return.
        """
        until = time.monotonic() + _FAREWELL_SECONDS
        self.post(f"going/{self.index}", "")
        self._wait_for_all("going", until)
        self.post(f"gone/{self.index}", "")
        if self.index == 0:
            self._wait_for_all("gone", until)
            # The others have nothing left to do but to end.
            time.sleep(2 * _PERIOD_SECONDS)

    def _wait_for_all(self, word: str, until: float) -> None:
        """Returns when all have said the word, or the board has gone, or too late."""
        said = {f"{word}/{index}" for index in range(self.count)}
        while time.monotonic() < until:
            seen = self.read()
            if said <= seen.keys() or not seen:
                return
            time.sleep(_PERIOD_SECONDS)

    def _leave_now(self, code: int) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # Leaving in order means to wait for processes that have gone.
        self._end(code)
        raise SystemExit(code)


_peers: Peers | None = None


def join(index: int, count: int) -> None:
    """Makes this process one of the run's; call it once all of them have arrived."""
    global _peers
    if count > 1:
        client: Any = ocp.multihost.get_jax_distributed_client()
        _peers = Peers(client, index, count)
        # Before jax says goodbye to the coordinator.
        atexit.register(_peers.close)


def peers() -> Peers | None:
    """Returns this process among the others; None if there are no others."""
    return _peers
