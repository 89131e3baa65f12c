"""Turns a request to stop (Ctrl-C, a cluster's SIGTERM) into a flag to look at."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Context manager in which the first SIGTERM or SIGINT only sets `requested`.

    The loop looks at it between two steps, saves and leaves. A second SIGINT raises
    KeyboardInterrupt at once. The handlers from before are back afterwards.

    A signal reaches one process. Where several processes run one program, all must stop
    at the same step. jax's preemption service, which `jax.distributed.initialize`
    starts, takes SIGTERM and tells the others; Ctrl-C is passed on to it. There
    `requested` stays False: what is under way before the first step is not worth an
    agreement, and `agreed` is what the loop asks.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._passed_on = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._received is not None

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that asked first ("SIGTERM"), None if none did."""
        return None if self._received is None else self._received.name

    def agreed(self, step: int) -> bool:
        """Returns whether to stop after `step`: on all processes after the same one.

        All processes ask after every step. It costs no communication until one of them
        is told to stop.
        """
        if not jax.distributed.is_initialized():
            return self.requested
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self._received = signal.SIGTERM
        return True

    def __enter__(self) -> "Interruption":
        # Python lets only the main thread handle signals; elsewhere nothing changes.
        if threading.current_thread() is threading.main_thread():
            if jax.distributed.is_initialized():
                handlers = {signal.SIGINT: self._pass_on}
            else:
                handlers = dict.fromkeys(_SIGNALS, self._handle)
            for number, handler in handlers.items():
                self._previous[number] = signal.signal(number, handler)
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

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._passed_on:
            raise KeyboardInterrupt
        self._passed_on = True
        os.kill(os.getpid(), signal.SIGTERM)


class Stopped(Exception):
    """Asked to stop before there was anything to save."""
