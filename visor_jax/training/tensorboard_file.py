"""The event file of one start of a run, as TensorBoard reads it.

tensorboardX writes the same from a thread of its own, which dies in a traceback when
the disk is full, while the run goes on or hangs in it. Here whoever writes is told.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from visor_jax.runtime import disk_errors

# Between two moments at which all values so far reach the disk.
_FLUSH_SECONDS = 10.0
_VERSION = "brain.Event:2"


class TensorBoardFile:
    """A new event file in a folder."""

    def __init__(
        self, folder: str | os.PathLike[str], *, purge_step: int | None = None
    ) -> None:
        """Makes the file, and the folder if it is not there.

        Args:
          purge_step: TensorBoard forgets this step and all later ones of older files.

        Raises:
          OSError: if that is not possible.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # File names have seconds only: the suffix keeps a fast restart apart.
        suffix = "" if purge_step is None else f".from_step_{purge_step}"
        place = f"{int(time.time())}.{socket.gethostname()}{suffix}"
        self._file = folder / f"events.out.tfevents.{place}"
        self._flushed_at = 0.0
        with disk_errors.naming(self._file):
            self._records = RecordWriter(str(self._file))
        self._write(Event(file_version=_VERSION))
        if purge_step is not None:
            self._write(Event(step=purge_step, file_version=_VERSION))
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge_step, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step. Raises OSError if the disk does not take them.

        Names may hold what TensorBoard does not allow: it becomes "_".
        """
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Brings all values so far to the disk. Raises OSError if it does not."""
        with disk_errors.naming(self._file):
            self._records.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Brings everything to the disk. Raises OSError if it does not take that."""
        with disk_errors.naming(self._file):
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with disk_errors.naming(self._file):
            self._records.write(event.SerializeToString())
