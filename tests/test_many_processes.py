"""Runs of four processes, and runs that are killed again and again.

They take minutes: `pytest -m slow -s tests/test_many_processes.py`.
"""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest

from tests import tolerances
from tests.policy_run import BUDGETS, PAGES, save_network
from tests.training.metric_lines import metric_lines
from tests.training_processes import (
    FLAGS,
    SCANNED,
    Commands,
    check_same_network,
    last_step,
    parameters,
    wait_until,
)

pytestmark = pytest.mark.slow

STEPS = 60
RUN = (
    *FLAGS,
    "--config.data.batch_size=4",
    "--config.tower.steps=0",
    f"--config.loop.steps={STEPS}",
    "--config.loop.log_every=2",
    "--config.loop.checkpoint_every=5",
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture(scope="module")
def four(commands, tmp_path_factory):
    """The workdir of a run of four processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    run_four(commands, workdir)
    return workdir


def run_four(commands, workdir):
    """Runs four processes to the end and returns what the first one said."""
    children = commands.start_several(4, *RUN, f"--workdir={workdir}")
    first, *others = [child.wait(600) for child in children]
    assert [each.code for each in (first, *others)] == [0] * 4, first.err
    return first.err


def test_four_processes_equal_four_devices_of_one(commands, four, tmp_path):
    workdir = tmp_path / "run"
    ended = commands.run(*RUN, f"--workdir={workdir}", devices=4)
    assert ended.code == 0, ended.err
    check_close(four, workdir)


def test_one_that_is_killed_ends_the_others_and_all_go_on(commands, four, tmp_path):
    workdir = tmp_path / "run"
    children = commands.start_several(4, *RUN, f"--workdir={workdir}")
    wait_until(lambda: (workdir / "checkpoints/10").exists(), children[0])
    children[2].kill()
    began = time.monotonic()
    ended = [child.wait() for child in children]
    seconds = time.monotonic() - began
    print(f"ended {seconds:.0f} s later: {[each.code for each in ended]}")
    assert seconds < 60
    assert all(each.code != 0 for each in ended)
    for each in (ended[0], ended[1], ended[3]):
        # Either jax hears of it first, or one that waits for its numbers, and says so.
        assert "another task died" in each.err or "Gloo all-reduce failed" in each.err
        told = [line for line in each.err.splitlines() if line.startswith("error: ")]
        assert len(told) <= 1
    assert "going on from step" in run_four(commands, workdir)
    check_same_network(workdir, four)


def test_a_stacked_state_of_several_processes_goes_on_anywhere(commands, tmp_path):
    written_out, workdir = tmp_path / "written_out", tmp_path / "run"
    flags = (*RUN, f"--config.model.variant={SCANNED}", "--config.loop.steps=8")
    apart = ("--config.model.scan_layers=off",)
    split = ("--config.mesh.data=1", "--config.mesh.fsdp=-1")
    scanned = ("--config.model.scan_layers=on", *split, f"--workdir={workdir}")

    def two():
        children = commands.start_several(2, *flags, *scanned)
        ended = [child.wait() for child in children]
        assert [each.code for each in ended] == [0, 0], ended[0].err

    ended = commands.run(*flags, *apart, f"--workdir={written_out}")
    assert ended.code == 0, ended.err
    two()
    check_close(workdir, written_out)
    # From the checkpoint before: one process with its layers apart, then two again.
    shutil.rmtree(workdir / "checkpoints/8")
    assert commands.run(*flags, *apart, f"--workdir={workdir}").code == 0
    check_close(workdir, written_out)
    shutil.rmtree(workdir / "checkpoints/8")
    two()
    check_close(workdir, written_out)


POLICY = (
    "--config=configs/policy.py",
    "--config.data.batch_size=16",
    "--config.data.pages.pool_size=12",
    f"--config.scores.batch_size={PAGES}",
    "--config.scores.batches=2",
    "--config.objective.cost_weight=0.0",
    "--config.optimizer.warmup_steps=2",
    "--config.loop.steps=12",
    "--config.loop.log_every=4",
    "--config.loop.checkpoint_every=6",
    f"--config.evaluation_pages={PAGES}",
    # Its network is split too, so that nobody has all of it.
    "--config.mesh.data=1",
    "--config.mesh.fsdp=-1",
)


def test_a_policy_of_two_processes_equals_that_of_two_devices(commands, tmp_path):
    workdirs = {}
    for name in ("devices", "processes"):
        # Each scores for itself.
        network, workdir = save_network(tmp_path / f"network-{name}"), tmp_path / name
        flags = (*POLICY, f"--config.init_from={network}", f"--workdir={workdir}")
        if name == "devices":
            ended = [commands.run(*flags, devices=2)]
        else:
            ended = [child.wait(600) for child in commands.start_several(2, *flags)]
        assert {each.code for each in ended} == {0}, ended[0].err
        workdirs[name] = workdir
    check_close(workdirs["processes"], workdirs["devices"])
    found, wanted = (
        json.loads((workdirs[name] / "report/policy.json").read_text())
        for name in ("processes", "devices")
    )
    assert found["fixed"] == wanted["fixed"]
    assert [row["budget"] for row in found["fixed"]] == list(BUDGETS)
    assert (tmp_path / "network-processes/cache").exists()
    # Everything is in the cache now: nothing is scored, by one process either.
    files, workdir = score_files(tmp_path), tmp_path / "again"
    flags = (*flags[:-1], f"--workdir={workdir}")
    ended = commands.run(*flags, devices=2)
    assert ended.code == 0, ended.err
    assert files
    assert score_files(tmp_path) == files
    check_close(workdir, workdirs["processes"])


def score_files(folder):
    """Returns when each file of scores was written."""
    files = folder.glob("network-processes/cache/scores-*/*/*.npz")
    return {file: file.stat().st_mtime_ns for file in files}


def check_close(found, expected):
    """Checks that two runs, which add up gradients in another order, are the same."""
    for got, wanted in zip(metric_lines(found), metric_lines(expected), strict=True):
        assert got.keys() == wanted.keys()
        np.testing.assert_allclose(
            list(got.values()), list(wanted.values()), **tolerances.GRADIENT
        )
    got, wanted = parameters(found), parameters(expected)
    worst = max(np.max(np.abs(got[name] - wanted[name])) for name in wanted)
    print(f"parameters differ by at most {worst:.2g}")
    assert got.keys() == wanted.keys()


def test_a_run_that_is_killed_twenty_times_ends_bit_identical(commands, tmp_path):
    expected, workdir = tmp_path / "straight", tmp_path / "run"
    one_by_one = (*RUN, "--config.loop.checkpoint_every=3")
    assert commands.run(*one_by_one, f"--workdir={expected}").code == 0
    flags, rng, codes = (*one_by_one, f"--workdir={workdir}"), random.Random(0), []
    while len(codes) < 20:
        child = commands.start(*flags)
        aim = last_step(workdir) + rng.randint(0, 4)
        wait_until(lambda aim=aim: last_step(workdir) >= aim, child)
        time.sleep(rng.uniform(0, 0.5))
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        if child.poll() is None:
            child.kill(number)
            codes.append((number.name, last_step(workdir), child.wait().code))
    print(codes)
    assert commands.run(*flags).code == 0
    check_same_network(workdir, expected)
