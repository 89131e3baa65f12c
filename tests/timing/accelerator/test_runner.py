"""A part in its own process: rows as they come, and an end whatever happens to it."""

import json
import sys
import time

import pytest

from visor_jax.timing.accelerator.record import PartRecord
from visor_jax.timing.accelerator.runner import run_part

ROW = {"what": "forward", "ms": 1.5}
SAYS = f"print({json.dumps(ROW)!r}, flush=True); "


@pytest.fixture
def run(tmp_path):
    def run(script, *, limit_s=120.0):
        part, seen = PartRecord("part"), []
        with (tmp_path / "log").open("ab") as log:
            run_part(
                part,
                [sys.executable, "-c", script],
                limit_s=limit_s,
                log=log,
                on_row=lambda: seen.append(len(part.rows)),
            )
        return part, seen, (tmp_path / "log").read_text()

    return run


def test_rows_and_how_a_part_ended(run):
    part, seen, log = run(
        SAYS
        + "print('a library speaks'); print('[1]'); "
        + SAYS
        # The last line has no end, as when a process dies in the middle of it.
        + """print('{"end": "skipped", "reason": "no torch"}\\n{"wh', end='')"""
    )
    assert (part.status, part.reason) == ("skipped", "no torch")
    assert part.rows == [ROW, ROW]
    assert seen == [1, 2]
    assert log.splitlines() == ["a library speaks", "[1]"]


def test_a_part_that_hangs_is_cut_and_keeps_its_rows(run):
    """...though it ignores a polite signal, and what it started hangs as well."""
    began = time.monotonic()
    part, _, _ = run(
        "import signal, subprocess, sys, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        + SAYS
        + "time.sleep(600)",
        limit_s=8.0,
    )
    assert (part.status, part.reason) == ("timeout", "cut after 8 s")
    assert part.rows == [ROW]
    assert 8 <= part.seconds <= time.monotonic() - began < 300


def test_a_part_that_closes_its_output_and_hangs_is_cut(run):
    part, _, _ = run("import os, time; os.close(1); time.sleep(600)", limit_s=4.0)
    assert part.status == "timeout"


@pytest.mark.parametrize("end", ["import os; os.abort()", "raise ValueError('no')"])
def test_a_part_that_dies_has_failed_and_keeps_its_rows(run, end):
    part, _, _ = run(SAYS + "\n" + end)
    assert part.status == "failed"
    assert "exit code" in part.reason
    assert part.rows == [ROW]
