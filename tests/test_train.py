"""`python -m visor_jax.train`: a run that is stopped ends as one that is not.

Two devices throughout: in one process, or in two of one device each, which compute the
same sums in the same order, so that even those two agree bit by bit.
"""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.training_processes import (
    FLAGS,
    ROOT,
    SMALL,
    Commands,
    check_same_network,
    last_step,
    wait_until,
)

STEPS = 24
FLAGS = (
    *FLAGS,
    f"--config.loop.steps={STEPS}",
    "--config.loop.log_every=2",
    "--config.loop.checkpoint_every=4",
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture(scope="module")
def straight(commands, tmp_path_factory):
    """A run that nobody disturbed: (workdir, its cache of pages and tower)."""
    folder = tmp_path_factory.mktemp("straight")
    flags = (*FLAGS, f"--config.data.cache={folder / 'cache'}")
    ended = commands.run(*flags, f"--workdir={folder / 'run'}", devices=2)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert "warning" not in ended.err.lower()
    return folder / "run", folder / "cache"


def stopped(commands, flags, workdir, number):
    """Returns how a run ended that got the signal once it had saved a checkpoint."""
    child = commands.start(*flags, devices=2)
    wait_until(lambda: (workdir / "checkpoints/4").exists(), child)
    child.kill(number)
    return child.wait()


def test_killed_and_started_again_ends_bit_identical(commands, straight, tmp_path):
    workdir = tmp_path / "run"
    flags = (*FLAGS, f"--config.data.cache={straight[1]}", f"--workdir={workdir}")
    killed = stopped(commands, flags, workdir, signal.SIGKILL)
    assert killed.code == -signal.SIGKILL, killed.err
    assert "going on from step" in commands.run(*flags, devices=2).err
    check_same_network(workdir, straight[0])


def test_sigterm_saves_and_says_how_to_go_on(commands, straight, tmp_path):
    workdir = tmp_path / "run"
    flags = (*FLAGS, f"--config.data.cache={straight[1]}", f"--workdir={workdir}")
    ended = stopped(commands, flags, workdir, signal.SIGTERM)
    assert ended.code == 0, ended.err
    step = int(re.search(rf"SIGTERM: saved at step (\d+) of {STEPS}", ended.out)[1])
    assert "the same command goes on" in ended.out
    assert f"going on from step {step}" in commands.run(*flags, devices=2).err
    check_same_network(workdir, straight[0])


def test_two_processes_stop_together_and_one_goes_on(commands, straight, tmp_path):
    workdir = tmp_path / "run"
    flags = (*FLAGS, f"--config.data.cache={tmp_path}", f"--workdir={workdir}")
    children = commands.start_several(2, *flags)
    wait_until(lambda: last_step(workdir) >= 4, children[0])
    # Only the second is told; both save at the same step.
    children[1].kill(signal.SIGTERM)
    first, second = [child.wait() for child in children]
    assert (first.code, second.code) == (0, 0), first.err + second.err
    step = int(re.search(r"SIGTERM: saved at step (\d+)", first.out)[1])
    assert "saved" not in second.out
    assert "compiled" not in second.err
    ended = commands.run(*flags, devices=2)
    assert f"going on from step {step}" in ended.err
    check_same_network(workdir, straight[0])


def test_a_finished_run_trains_no_more(commands, straight):
    workdir, cache = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    flags = (*FLAGS, f"--config.data.cache={cache}", f"--workdir={workdir}")
    ended = commands.run(*flags, devices=2)
    assert f"going on from step {STEPS}" in ended.err
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_prints_its_table_and_leaves_a_report(straight, tmp_path):
    workdir, cache = straight
    shutil.copytree(workdir, tmp_path / "run")
    flags = (*FLAGS, f"--config.data.cache={cache}", f"--workdir={tmp_path / 'run'}")
    with Commands(tmp_path, report=True) as commands:
        first, again = [commands.run(*flags, devices=2) for _ in range(2)]
    assert re.search(r"sa0\b.*\n(.*\n)*.*sa1:1", first.out), first.err
    accuracies = [re.findall(r"sa\d\S*", ended.out) for ended in (first, again)]
    assert accuracies[0] == accuracies[1]
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    assert report["rows"][0]["budget"] == "sa0"
    assert {row["model"] for row in report["rows"]} == {"universal"}
    assert report["train_steps"] == STEPS
    assert (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/universal.py:huge"], "Unknown preset 'huge'"),
        (["--config=configs/universal.py:llava_ov_7b"], "--config.data.path"),
        (["--config=configs/universal.py", "--config.optimiser.b1=1"], "optimiser"),
        (["--config=configs/universal.py", "--config.loop.steps=many"], "many"),
        (["--config=configs/dedicated.py:sa1:2"], "switches on layers [2]"),
        (["--config=configs/universal.py", "--config.mesh.data=3"], "does not fit"),
        (["--config=configs/universal.py", "--config.platform=tpu"], "jax found 'cpu'"),
        (["--config=configs/universal.py", "--config.platform=npu"], "'npu' is not"),
        (["--config=configs/universal.py", "--num_processes=2"], "go together"),
        (["--config=configs/universal.py", "--distributed"], "No cluster says"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(commands, flags, message, tmp_path):
    ended = commands.run(*flags, f"--workdir={tmp_path / 'run'}")
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


def test_the_module_is_a_command():
    ended = subprocess.run(
        [sys.executable, "-m", "visor_jax.train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "--config=FILE is needed" in ended.stderr


def test_another_configuration_in_the_same_workdir_is_refused(commands, straight):
    workdir, cache = straight
    flags = (*FLAGS, f"--config.data.cache={cache}", f"--workdir={workdir}")
    ended = commands.run(*flags, "--config.seed=1", devices=2)
    assert ended.code == 2
    assert "seed: 0 -> 1" in ended.err
    assert SMALL in (workdir / "config.json").read_text()
