"""A command that was started attended stops, and saves, when its starter is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Starts what saves, and is no longer there to be asked.
STARTER = """
import subprocess, sys, time
from visor_jax.notebook.attended import attended
process = subprocess.Popen(
    [*attended("tests.notebook.saves_when_told"), *sys.argv[1:]],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
)
print(process.pid, flush=True)
time.sleep(60)
"""


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_saves_when_its_starter_is_killed(tmp_path):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, tmp_path], cwd=ROOT)
    until((tmp_path / "began").exists)
    time.sleep(0.5)
    # It goes on while its starter lives.
    assert starter.poll() is None
    assert not (tmp_path / "saved").exists()
    starter.kill()
    assert starter.wait() == -signal.SIGKILL
    # It prints before it saves, into a pipe that nobody reads any more.
    until((tmp_path / "saved").exists)
    until(lambda: (tmp_path / "saved").read_text() == "in time")
