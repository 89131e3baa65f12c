"""Training from a notebook: the command that a terminal runs, its curve as it grows.

    train("configs/universal.py:demo", workdir="runs/demo")

starts `python -m visor_jax.train` as a process of its own, so that the notebook's
memory and devices stay free for afterwards. Interrupting the cell stops the run, which
saves; so does the end of the kernel. Running the cell again goes on from there.
"""

import collections
import html
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from IPython.display import HTML, DisplayHandle

from visor_jax.checkpoints import layout
from visor_jax.notebook.attended import attended
from visor_jax.notebook.training_curve import read_metrics, training_curve
from visor_jax.runtime.ownership import owned_folder

COMMAND = attended("visor_jax.train")
# Lines of the command that are kept for when it fails.
_LAST_LINES = 40


class TrainingFailed(Exception):
    """The command ended with an error; the text holds its last lines."""


def train(
    config: str,
    *flags: str,
    workdir: str | os.PathLike[str],
    refresh_s: float = 2.0,
) -> Path:
    """Trains what a configuration describes, or goes on with it; returns its workdir.

    Args:
      config: as for `--config`, "configs/universal.py:demo".
      *flags: more of the command's, "--config.loop.steps=300".
      workdir: of the run.
      refresh_s: seconds between two pictures of the curve.

    Raises:
      TrainingFailed: if the command fails.
      KeyboardInterrupt: if the cell was interrupted, once the run has saved.
    """
    command = [*COMMAND, f"--config={config}", f"--workdir={workdir}", *flags]
    picture, words = DisplayHandle(), DisplayHandle()
    for place in (picture, words):
        place.display(HTML(""))
    if not layout.is_remote(workdir):
        _wait_for_an_earlier_one(workdir, words)
    # In a group of its own: an interrupt reaches it once, from here.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            lines = _watch(process, Path(workdir), picture, words, refresh_s)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            print(f"stopped and saved: run the cell again to go on with {workdir}")
            raise
    if process.returncode:
        raise TrainingFailed(
            f"visor_jax.train ended with code {process.returncode}:\n"
            + "\n".join(lines)
        )
    return Path(workdir)


def _wait_for_an_earlier_one(
    workdir: str | os.PathLike[str], words: DisplayHandle
) -> None:
    """Returns when nobody else writes the workdir.

    A kernel that is gone leaves a run behind that saves, or writes its report, first.
    """
    said = f"another run has {html.escape(str(workdir))}: it begins once that one ends"

    def tell() -> None:
        words.update(HTML(f"<pre>{said}</pre>"))

    with owned_folder(workdir, wait=tell):
        pass


def _watch(
    process: subprocess.Popen[str],
    workdir: Path,
    picture: DisplayHandle,
    words: DisplayHandle,
    refresh_s: float,
) -> Sequence[str]:
    """Shows how far the run is until it ends; returns its last lines."""
    lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    reader = threading.Thread(target=_collect, args=(process.stdout, lines))
    reader.start()
    shown = -1
    running = True
    while running:
        running = process.poll() is None
        if not running:
            reader.join()
        drawn = len(read_metrics(workdir))
        if drawn != shown:
            picture.update(training_curve(workdir))
            shown = drawn
        # While it runs the newest line says how far it is; the end is worth all.
        told = list(lines)[-1:] if running else list(lines)
        words.update(HTML(f"<pre>{html.escape(chr(10).join(told))}</pre>"))
        if running:
            _wait(process, refresh_s)
    return lines


def _collect(stream: IO[str], lines: collections.deque[str]) -> None:
    for line in stream:
        lines.append(line.rstrip())


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
