"""Turns a request to stop (Ctrl-C, a cluster's SIGTERM) into a flag to look at."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from visor_jax.runtime.peers import FAILED, Peers, peers

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PERIOD_SECONDS = 0.05


class Interruption:
    """Context manager in which the first SIGTERM or SIGINT only sets `requested`.

    The loop looks at it between two steps, saves and leaves. A second SIGINT raises
    KeyboardInterrupt at once. The handlers from before are back afterwards.

    A signal reaches one process. Where several processes run one program, `requested`
    becomes true on all of them soon after, and `agreed` on all after the same step: the
    first that none of them has finished when they hear of it.
    """

    def __init__(self) -> None:
        self._asked_by: str | None = None
        self._wanted: str | None = None
        self._was_handled = False
        # Signals as they arrive, a byte each: Python's own handlers wait until the main
        # thread comes back from native code, from a barrier perhaps.
        self._arrived: int | None = None
        self._wakeup: int | None = None
        self._previous: dict[signal.Signals, Any] = {}
        # Steps after which `agreed` was asked, and after which it is true; several
        # processes agree on that while none of them goes on.
        self._agreeing = threading.Lock()
        self._step, self._stop_at = -1, None

    @property
    def requested(self) -> bool:
        return self._asked_by is not None

    @property
    def wanted(self) -> str | None:
        """Name of the signal that reached this process of several first, if one did."""
        if self._wanted is None and self._arrived is not None:
            with contextlib.suppress(BlockingIOError):
                numbers = os.read(self._arrived, 64)
                names = [n.name for n in _SIGNALS if n in numbers]
                self._wanted = names[0] if names else None
        return self._wanted

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that asked first ("SIGTERM"), None if none did."""
        return self._asked_by

    def agreed(self, step: int) -> bool:
        """Returns whether to stop after `step`: on all processes after the same one.

        All processes ask after every step. It costs no communication until one of them
        is told to stop.
        """
        if peers() is None:
            return self.requested
        with self._agreeing:
            self._step = step
            return self._stop_at is not None and step >= self._stop_at

    def stop_together(self, signal_name: str, all_of_us: Peers) -> None:
        """Finds the step after which all processes stop; for the watching thread.

        Each tells how far it has come, and comes no farther before all have told.
        """
        self._asked_by = self._asked_by or signal_name
        names = [f"step/{i}" for i in range(all_of_us.count)]
        with self._agreeing:
            all_of_us.post(names[all_of_us.index], str(self._step))
            while (seen := all_of_us.read()) and FAILED not in seen:
                if all(name in seen for name in names):
                    self._stop_at = 1 + max(int(seen[name]) for name in names)
                    return
                time.sleep(_PERIOD_SECONDS)

    def __enter__(self) -> "Interruption":
        # Python lets only the main thread handle signals; elsewhere nothing changes.
        if threading.current_thread() is threading.main_thread():
            # Where there are others, also in the place of jax's own handler.
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
            if (others := peers()) is not None:
                self._arrived, self._wakeup = os.pipe()
                os.set_blocking(self._arrived, False)
                os.set_blocking(self._wakeup, False)
                signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
                others.listen(self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python and cannot be put back.
            if handler is not None:
                signal.signal(number, handler)
        self._previous.clear()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            # The watching thread may be reading from the other end.
            os.close(self._wakeup)
            self._wakeup = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._was_handled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._was_handled = True
        if peers() is None:
            self._asked_by = self._asked_by or signal.Signals(number).name


class Stopped(Exception):
    """Asked to stop before there was anything to save."""
