"""`python -m visor_jax.timing.server`: `answer`, the server, its clients, its end."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs: pip install -e .[serve]")

from tests.inference import page_run


@pytest.mark.slow
def test_two_thousand_requests_leave_nothing_behind(tmp_path):
    workdir = page_run.save(tmp_path, page_run.parameters())
    command = [sys.executable, "-m", "visor_jax.timing.server", "--text_tokens=8"]
    done = subprocess.run(
        [*command, f"--checkpoint={workdir}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2000 questions, in ['sa0', 'sa1:1', 'sa2:1,2']" in done.stdout
    assert re.search(r"server: .* 0\.\d+ x of answer|server: .* x of", done.stdout)
    kinds = "processor seconds: clients .*, engine .*, http .*, others "
    assert re.search(kinds, done.stdout)
    assert "SIGTERM: 32 of 32 streams ended whole, exit code 0" in done.stdout


def test_what_it_cannot_be_told_is_told(tmp_path):
    command = [sys.executable, "-m", "visor_jax.timing.server"]
    done = subprocess.run(
        [*command, f"--checkpoint={tmp_path}"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
