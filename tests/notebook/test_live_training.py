"""A notebook's training is the command's: its failure, and how it is stopped."""

import _thread
import signal
import sys
import threading
import time

import pytest

from visor_jax.notebook import live_training
from visor_jax.notebook.live_training import TrainingFailed, train
from visor_jax.runtime.ownership import owned_folder

# Trains nothing, and saves when it is told to stop.
SAVES_AT_AN_INTERRUPT = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
workdir = pathlib.Path(sys.argv[2].removeprefix("--workdir="))
try:
    (workdir / "began").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    (workdir / "saved").touch()
"""


def test_what_the_command_refuses_is_told(tmp_path):
    with pytest.raises(TrainingFailed, match=r"(?s)ended with code 2.*nosuchpreset"):
        train("configs/universal.py:nosuchpreset", workdir=tmp_path)


def test_an_interrupted_cell_waits_until_the_run_has_saved(
    tmp_path, monkeypatch, capsys
):
    script = tmp_path / "command.py"
    script.write_text(SAVES_AT_AN_INTERRUPT)
    monkeypatch.setattr(live_training, "COMMAND", (sys.executable, str(script)))

    def interrupt():
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        _thread.interrupt_main()

    # Tests that run in the background may have been started without one.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            train("any.py", workdir=tmp_path, refresh_s=0.2)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (tmp_path / "saved").exists()
    assert "run the cell again" in capsys.readouterr().out


def test_a_run_that_an_earlier_kernel_left_behind_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(live_training, "COMMAND", (sys.executable, "-c", ""))
    holds, let_go = threading.Event(), []

    def leave():
        with owned_folder(tmp_path):
            holds.set()
            time.sleep(1)
            let_go.append(time.monotonic())

    thread = threading.Thread(target=leave)
    thread.start()
    holds.wait()
    said = []
    monkeypatch.setattr(
        live_training.DisplayHandle, "update", lambda _, shown: said.append(shown)
    )
    assert train("any.py", workdir=tmp_path, refresh_s=0.1) == tmp_path
    assert let_go
    thread.join()
    texts = [shown.data for shown in said if isinstance(shown, live_training.HTML)]
    assert f"another run has {tmp_path}" in texts[0]
    assert "another run" not in texts[-1]
