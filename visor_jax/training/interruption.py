"""Turns a request to stop (Ctrl-C, a cluster's SIGTERM) into a flag to look at."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Context manager in which the first SIGTERM or SIGINT only sets `requested`.

    The loop looks at it between two steps, saves and leaves. A second SIGINT raises
    KeyboardInterrupt at once. The handlers from before are back afterwards.

    A signal reaches one process. Where several processes run one program they must stop
    at the same step: `CheckpointManager.reached_preemption` is their agreement.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._received is not None

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that asked first ("SIGTERM"), None if none did."""
        return None if self._received is None else self._received.name

    def __enter__(self) -> "Interruption":
        # Python lets only the main thread handle signals; elsewhere nothing changes.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python and cannot be put back.
            if handler is not None:
                signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self._received = signal.Signals(number)
