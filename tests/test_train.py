"""`python -m visor_jax.train`: a run that is stopped ends as one that is not.

Two devices throughout: in one process, or in two of one device each, which compute the
same sums in the same order, so that even those two agree bit by bit.
"""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import universal
from tests.training_processes import (
    FLAGS,
    ROOT,
    SMALL,
    Commands,
    check_same_network,
    free_port,
    last_step,
    wait_until,
)
from visor_jax import train
from visor_jax.runtime.interruption import Interruption
from visor_jax.training import run_record

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
    """A run that nobody disturbed: (workdir, its cache, how it ended)."""
    folder = tmp_path_factory.mktemp("straight")
    flags = flags_of(folder / "run", folder / "cache")
    ended = commands.run(*flags, devices=2, report=True)
    assert ended.code == 0, ended.err
    return folder / "run", folder / "cache", ended


def flags_of(workdir, cache):
    return (*FLAGS, f"--workdir={workdir}", f"--config.data.cache={cache}")


def test_a_run_prints_its_table_and_leaves_a_report(straight):
    workdir, _, ended = straight
    assert re.search(r"sa0\b.*\n(.*\n)*.*sa1:1", ended.out)
    report = json.loads((workdir / "report/report.json").read_text())
    assert report["rows"][0]["budget"] == "sa0"
    assert {row["model"] for row in report["rows"]} == {"universal"}
    assert report["train_steps"] == STEPS
    assert (workdir / "config.json").exists()
    assert "Traceback" not in ended.err
    assert "warning" not in ended.err.lower()


def test_killed_and_told_to_stop_a_run_ends_bit_identical(commands, straight, tmp_path):
    workdir = tmp_path / "run"
    flags = flags_of(workdir, straight[1])
    killed = stopped(commands, flags, workdir, signal.SIGKILL, after=4)
    assert killed.code == -signal.SIGKILL, killed.err
    told = stopped(commands, flags, workdir, signal.SIGTERM, after=12)
    assert told.code == 0, told.err
    assert "going on from step" in told.err
    step = int(re.search(rf"SIGTERM: saved at step (\d+) of {STEPS}", told.out)[1])
    assert "the same command goes on" in told.out
    assert f"going on from step {step}" in commands.run(*flags, devices=2).err
    check_same_network(workdir, straight[0])


def stopped(commands, flags, workdir, number, *, after):
    """Returns how a run ended that got the signal once it had saved that step."""
    child = commands.start(*flags, devices=2)
    wait_until(lambda: (workdir / f"checkpoints/{after}").exists(), child)
    child.kill(number)
    return child.wait()


def test_two_processes_stop_together_and_one_goes_on(commands, straight, tmp_path):
    workdir = tmp_path / "run"
    flags = flags_of(workdir, straight[1])
    children = commands.start_several(2, *flags)
    wait_until(lambda: last_step(workdir) >= 4, children[0])
    # Only the second is told, by Ctrl-C; both save at the same step.
    children[1].kill(signal.SIGINT)
    first, second = [child.wait() for child in children]
    assert (first.code, second.code) == (0, 0), first.err + second.err
    step = int(re.search(r"SIGINT: saved at step (\d+)", first.out)[1])
    assert "saved" not in second.out
    assert "compiled" not in second.err
    ended = commands.run(*flags, devices=2)
    assert f"going on from step {step}" in ended.err
    check_same_network(workdir, straight[0])


@pytest.mark.parametrize("limit", [50_000, 700_000], ids=["drawing", "saving"])
def test_one_that_fails_ends_the_other_with_its_message(commands, tmp_path, limit):
    workdir, address = tmp_path / "run", f"--coordinator=127.0.0.1:{free_port()}"
    flags = (*FLAGS, address, "--num_processes=2", f"--workdir={workdir}")
    # The first one's disk is full: while the second waits for it at a barrier, or
    # inside a step.
    first = commands.start(*flags, "--process_id=0", file_bytes=limit)
    second = commands.start(*flags, "--process_id=1")
    ended = first.wait()
    began = time.monotonic()
    other = second.wait()
    assert time.monotonic() - began < 10
    assert (ended.code, other.code) == (1, 1)
    reason = ended.err.splitlines()[-1].removeprefix("error: ")
    assert "File too large" in reason
    assert other.err.splitlines()[-1] == f"error: process 0 of 2 failed: {reason}"
    assert "Traceback" not in ended.err + other.err


def test_two_processes_that_are_told_before_the_first_step_both_end(commands, tmp_path):
    flags = (*FLAGS, "--config.tower.steps=20000", f"--workdir={tmp_path / 'run'}")
    first, second = commands.start_several(2, *flags)
    wait_until(lambda: "tower step" in first.read("err"), first)
    # The second waits at a barrier and has nothing to stop.
    second.kill(signal.SIGTERM)
    began = time.monotonic()
    for ended in (first.wait(), second.wait()):
        assert ended.code == 0, ended.err
        assert "stopped before the first step" in ended.out
    assert time.monotonic() - began < 15


def test_a_finished_run_only_reports_again(commands, straight):
    workdir, cache, ended = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    again = commands.run(*flags_of(workdir, cache), devices=2, report=True)
    accuracies = [re.findall(r"sa\d\S*", out) for out in (ended.out, again.out)]
    assert accuracies[0] == accuracies[1]
    assert f"going on from step {STEPS}" in again.err
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_processes_that_do_not_come_are_waited_for_so_long(commands, tmp_path):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    flags = (*FLAGS, address, "--num_processes=2", f"--workdir={tmp_path / 'run'}")
    second = commands.run(*flags, "--process_id=1", "--start_timeout=1")
    assert second.code == 3
    assert "after 1 s process 1 still waits for 2 processes" in second.err
    assert "it does not answer" in second.err
    assert "--worker=all" in second.err
    assert not (tmp_path / "run").exists()


def test_processes_that_differ_end_with_the_difference(commands, tmp_path):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    flags = (*FLAGS, address, "--num_processes=2", f"--workdir={tmp_path / 'run'}")
    children = [
        commands.start(*flags, f"--process_id={i}", f"--config.seed={i}")
        for i in range(2)
    ]
    for ended in [child.wait() for child in children]:
        assert ended.code == 2, ended.err
        assert "process 1 has config.seed 1, process 0 has 0" in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


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


def test_groups_that_leave_parameters_out_are_refused_before_any_work(
    commands, tmp_path
):
    data, workdir = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    (data / "manifest.json").write_text("{}")
    ended = commands.run(
        "--config=configs/universal.py:llava_ov_0p5b",
        f"--config.data.path={data}",
        f"--config.data.processor={data}",
        "--config.platform=cpu",
        "--config.optimizer.groups.projector.pattern=^(projector/|image_newline$)",
        f"--workdir={workdir}",
    )
    assert ended.code == 2, ended.err
    assert "error: optimizer.groups" in ended.err
    assert "Parameters in no group (4):\n  multi_modal_projector/" in ended.err
    assert "  projector: '^(projector/|image_newline$)'" in ended.err
    assert "Traceback" not in ended.err
    assert not workdir.exists()


def test_a_run_is_prepared_from_values_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, interruption = universal.get_config(), Interruption()
    run = train.prepare(config, tmp_path / "run", interruption)
    assert run.workdir == tmp_path / "run"
    assert run.interruption is interruption
    assert run.settings.loop.steps == config.loop.steps
    config.label, config.seed = "dedicated:none", 3
    run = train.prepare(config, None, interruption)
    assert run.workdir == Path("runs/dedicated-none-mini-seed3")
    # Nothing is written before the run begins.
    assert not list(tmp_path.iterdir())


def test_what_a_run_cannot_be_prepared_from_is_named(tmp_path):
    imported = tmp_path / "imported"
    (imported / "checkpoints/0").mkdir(parents=True)
    other = run_record.write_run_record(
        tmp_path / "other", universal.get_config().to_dict() | {"seed": 7}
    )
    assert other["config"]["seed"] == 7
    config = universal.get_config()
    for workdir, complaint in (
        (imported, r"imported weights.*--config\.init_from="),
        (tmp_path / "other", "seed: 7 -> 0"),
    ):
        with pytest.raises(ValueError, match=complaint):
            train.prepare(config, workdir, Interruption())
    config.data.batch_size = 12
    with pytest.raises(ValueError, match="batch_size=12 does not split over the 8"):
        train.prepare(config, tmp_path / "run", Interruption())


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
    workdir, cache, _ = straight
    flags = flags_of(workdir, cache)
    ended = commands.run(*flags, "--config.seed=1", devices=2)
    assert ended.code == 2
    assert "seed: 0 -> 1" in ended.err
    assert SMALL in (workdir / "config.json").read_text()
