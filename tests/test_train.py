"""`python -m visor_jax.train`: a run that is killed ends as one that is not."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from visor_jax.checkpoints.restore import load_params

ROOT = Path(__file__).parents[1]
STEPS = 60

# Small in every way that does not matter here; one conditional is enough.
SMALL = (
    "--config=configs/universal.py",
    f"--config.loop.steps={STEPS}",
    "--config.loop.log_every=5",
    "--config.loop.checkpoint_every=10",
    "--config.optimizer.warmup_steps=5",
    "--config.budgets=('none', 'all')",
    "--config.budget_phases=((1.0, {'any': 1.0}),)",
    "--config.data.batch_size=2",
    "--config.data.pages.pool_size=32",
    "--config.data.pages.questions_per_page=3",
    "--config.data.pages.text_length=24",
    "--config.tower.steps=3",
    "--config.evaluation_pages=8",
)


def command(workdir: Path, cache: Path, *more: str) -> list[str]:
    flags = (f"--workdir={workdir}", f"--config.data.cache={cache}")
    return [sys.executable, "-m", "visor_jax.train", *SMALL, *flags, *more]


# Kept until the tests end: the runs share their compiled programs.
COMPILED = tempfile.TemporaryDirectory()


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "COLUMNS": "100",
    }


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def start_and_signal(arguments: list[str], workdir: Path, number: int, step: int):
    """Starts a run, sends it the signal once it has logged `step`, and waits."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, limit = workdir / "metrics.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < limit:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            process.send_signal(number)
            break
        time.sleep(0.02)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def flat(params) -> dict[str, np.ndarray]:
    import flax.traverse_util

    leaves = flax.traverse_util.flatten_dict(params, sep="/")
    return {key: np.asarray(value) for key, value in leaves.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody disturbed: (workdir, cache, what it printed)."""
    folder = tmp_path_factory.mktemp("straight")
    done = run(*command(folder / "run", folder / "cache"))
    return folder / "run", folder / "cache", done


def test_a_run_prints_its_table_and_leaves_a_report(straight):
    workdir, _, done = straight
    assert re.search(r"sa0\b.*\n(.*\n)*.*sa3:1,3,5", done.stdout)
    report = json.loads((workdir / "report/report.json").read_text())
    assert report["rows"][0]["budget"] == "sa0"
    assert {row["model"] for row in report["rows"]} == {"universal"}
    assert report["train_steps"] == STEPS
    assert (workdir / "config.json").exists()
    assert "Traceback" not in done.stderr
    assert "warning" not in done.stderr.lower()


def test_killed_and_started_again_ends_bit_identical(straight, tmp_path):
    workdir, cache, _ = straight
    arguments = command(tmp_path / "run", cache)
    code, _, err = start_and_signal(arguments, tmp_path / "run", signal.SIGKILL, 35)
    assert code == -signal.SIGKILL, err
    assert "going on from step" in run(*arguments).stderr
    expected, got = flat(load_params(workdir)), flat(load_params(tmp_path / "run"))
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)
    lines = [(d / "metrics.jsonl").read_bytes() for d in (workdir, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_sigterm_saves_and_says_how_to_go_on(straight, tmp_path):
    workdir, cache, _ = straight
    arguments = command(tmp_path / "run", cache)
    code, out, err = start_and_signal(arguments, tmp_path / "run", signal.SIGTERM, 15)
    assert code == 0, err
    stopped = int(re.search(r"SIGTERM: saved at step (\d+) of 60", out)[1])
    assert "the same command goes on" in out
    again = run(*arguments)
    assert f"going on from step {stopped}" in again.stderr
    expected, got = flat(load_params(workdir)), flat(load_params(tmp_path / "run"))
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def test_a_finished_run_only_reports_again(straight):
    workdir, cache, done = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    again = run(*command(workdir, cache))
    accuracies = [re.findall(r"sa\d\S*", out) for out in (done.stdout, again.stdout)]
    assert accuracies[0] == accuracies[1]
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is needed"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/universal.py:huge"], "Unknown preset 'huge'"),
        (["--config=configs/universal.py:llava_ov_7b"], "--config.data.path"),
        (["--config=configs/universal.py", "--config.optimiser.b1=1"], "optimiser"),
        (["--config=configs/universal.py", "--config.loop.steps=many"], "many"),
        (["--config=configs/dedicated.py:sa1:2"], "switches on layers [2]"),
        (["--config=configs/universal.py", "--config.mesh.data=3"], "does not fit"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, tmp_path):
    done = run(
        *(sys.executable, "-m", "visor_jax.train", *arguments),
        f"--workdir={tmp_path / 'run'}",
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_another_configuration_in_the_same_workdir_is_refused(straight):
    workdir, cache, _ = straight
    done = run(*command(workdir, cache, "--config.seed=1"), check=False)
    assert done.returncode == 2
    assert "seed: 0 -> 1" in done.stderr
