"""Writes the numbers of a run: what is reproducible apart from what is not.

`metrics.jsonl` holds values that depend on the configuration alone (step, losses,
scores), so two runs of one configuration give the same file, byte for byte, however
often they were stopped. `timing.jsonl` holds what the clock says (seconds per step,
waiting for data, compile times). Both go to TensorBoard too.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visor_jax.runtime import disk_errors
from visor_jax.training.tensorboard_file import TensorBoardFile

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
TENSORBOARD = "tensorboard"


class MetricWriter:
    """Appends to the metric files of one workdir.

    Whatever the disk does not take is an OSError with the file's name.

    Names may be keyed by budget ("loss/sa0", "loss/sa2:8,16"); TensorBoard allows fewer
    characters and shows the second as "loss/sa2_8_16".
    """

    def __init__(self, workdir: str | os.PathLike[str], *, enabled: bool = True):
        """Opens nothing yet: the files appear with the first values.

        Args:
          workdir: directory of the run, made if it is not there.
          enabled: False on every process but the first: then nothing is written.
        """
        self._workdir = Path(workdir)
        self._enabled = enabled
        self._purge_step: int | None = None
        self._tensorboard: TensorBoardFile | None = None
        if enabled:
            self._workdir.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line of deterministic scalars to metrics.jsonl.

        Arrays of one element are taken as scalars. "nan", "inf" and "-inf" are written
        as strings, because JSON has no such numbers.
        """
        self._append(METRICS, step, values, prefix="")

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line of wall-clock scalars (seconds, steps/s) to timing.jsonl."""
        self._append(TIMING, step, values, prefix="timing/")

    def position(self) -> int:
        """Returns the length of metrics.jsonl in bytes, all of them on disk.

        A checkpoint stores it as "metrics_offset"; `truncate_to` returns to it.
        """
        file = self._workdir / METRICS
        if not self._enabled or not file.exists():
            return 0
        with disk_errors.naming(file), file.open("ab") as lines:
            os.fsync(lines.fileno())
            return lines.tell()

    def truncate_to(self, offset: int, *, step: int) -> None:
        """Drops what was logged after the checkpoint that the run goes on from.

        Args:
          offset: `position()` when the checkpoint was saved, 0 for a fresh start.
          step: the step of the checkpoint; TensorBoard forgets all later ones.

        Raises:
          ValueError: if metrics.jsonl is shorter than that.
        """
        if not self._enabled:
            return
        file = self._workdir / METRICS
        size = file.stat().st_size if file.exists() else 0
        if size < offset:
            raise ValueError(
                f"{file} has {size} bytes, but at step {step} it had {offset}: it was "
                "changed by hand or lost. Put it back, or use another workdir."
            )
        if size > offset:
            os.truncate(file, offset)
        self.close()  # TensorBoard learns of the purge when its next file is opened.
        self._purge_step = step + 1

    def flush(self) -> None:
        """Brings what was written to the files, TensorBoard's too."""
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        tensorboard, self._tensorboard = self._tensorboard, None
        if tensorboard is not None:
            tensorboard.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(
        self, name: str, step: int, values: Mapping[str, Any], *, prefix: str
    ) -> None:
        if not self._enabled:
            return
        scalars = {key: float(np.asarray(v).item()) for key, v in values.items()}
        line = {"step": int(step), **{k: _json_number(v) for k, v in scalars.items()}}
        file = self._workdir / name
        # One write per line: a killed process leaves at most one unfinished line.
        with disk_errors.naming(file), file.open("ab") as lines:
            lines.write((json.dumps(line) + "\n").encode())
        if self._tensorboard is None:
            folder = self._workdir / TENSORBOARD
            self._tensorboard = TensorBoardFile(folder, purge_step=self._purge_step)
        named = {prefix + key: value for key, value in scalars.items()}
        self._tensorboard.write(int(step), named)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
