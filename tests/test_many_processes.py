"""Runs of several processes, and runs that are killed again and again.

What takes minutes is marked slow: `pytest -m slow tests/test_many_processes.py`.
"""

import random
import signal
import time

import numpy as np
import pytest

from tests import tolerances
from tests.training_processes import (
    FLAGS,
    Commands,
    check_same_network,
    free_port,
    last_step,
    parameters,
    wait_until,
)
from visor_jax.training.metrics import read_metrics

STEPS = 60
SHORT = (*FLAGS, "--config.tower.steps=0", "--config.data.batch_size=4")
RUN = (
    *SHORT,
    f"--config.loop.steps={STEPS}",
    "--config.loop.log_every=2",
    "--config.loop.checkpoint_every=5",
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture(scope="module")
def straight(commands, tmp_path_factory):
    """A run on four devices of one process that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    ended = commands.run(*RUN, f"--workdir={workdir}", devices=4)
    assert ended.code == 0, ended.err
    return workdir


def test_processes_that_do_not_come_are_waited_for_so_long(commands, tmp_path):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    flags = (*SHORT, address, "--num_processes=2", f"--workdir={tmp_path / 'run'}")
    second = commands.run(*flags, "--process_id=1", "--start_timeout=1")
    assert second.code == 3
    assert "after 1 s process 1 still waits for 2 processes" in second.err
    assert "it does not answer" in second.err
    assert "--worker=all" in second.err
    assert not (tmp_path / "run").exists()


def test_processes_that_differ_end_with_the_difference(commands, tmp_path):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    flags = (*SHORT, address, "--num_processes=2", f"--workdir={tmp_path / 'run'}")
    children = [
        commands.start(*flags, f"--process_id={i}", f"--config.seed={i}")
        for i in range(2)
    ]
    for ended in [child.wait() for child in children]:
        assert ended.code == 2
        assert "process 1 has config.seed 1, process 0 has 0" in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_four_processes_equal_one_and_go_on_after_one_was_killed(
    commands, straight, tmp_path
):
    workdir = tmp_path / "run"
    flags = (*RUN, f"--workdir={workdir}")
    children = commands.start_several(4, *flags)
    wait_until(lambda: (workdir / "checkpoints/10").exists(), children[0])
    children[2].kill()
    began = time.monotonic()
    ended = [child.wait() for child in children]
    print(f"ended {time.monotonic() - began:.0f} s later: {[e.code for e in ended]}")
    assert time.monotonic() - began < 60
    assert all(each.code != 0 for each in ended)
    for each in (ended[0], ended[1], ended[3]):
        assert "another task died" in each.err or "unhealthy" in each.err
    ended = [child.wait() for child in commands.start_several(4, *flags)]
    assert [each.code for each in ended] == [0] * 4, ended[0].err
    assert "going on from step" in ended[0].err
    check_close(workdir, straight)


def check_close(found, expected):
    """Checks that two runs, which add up gradients in another order, are the same."""
    for got, wanted in zip(read_metrics(found), read_metrics(expected), strict=True):
        assert got.keys() == wanted.keys()
        np.testing.assert_allclose(
            list(got.values()), list(wanted.values()), **tolerances.GRADIENT
        )
    got, wanted = parameters(found), parameters(expected)
    worst = max(np.max(np.abs(got[name] - wanted[name])) for name in wanted)
    print(f"parameters differ by at most {worst:.2g}")
    assert got.keys() == wanted.keys()


@pytest.mark.slow
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
