"""The notebook runs from its first cell to its last, and is stored without outputs."""

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from visor_jax.notebook.training_curve import read_metrics

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch/colab.ipynb"
STEPS = 30
# What makes the runs short; the notebook itself has a place for it.
SHORT = {
    r"FLAGS = \(\).*": "FLAGS = "
    + repr(
        (
            *(f"--config.loop.steps={STEPS}", "--config.optimizer.warmup_steps=2"),
            "--config.loop.log_every=2",
            *("--config.evaluation_pages=4", "--config.data.pages.pool_size=64"),
        )
    ),
    r"^train\(\"configs/universal.py:demo\", ": 'train("configs/universal.py:demo", '
    '"--config.tower.steps=5", ',
    r"\"--config.init_from=\{WORKDIR\}/universal\",\n    f?": '"--config.init_from='
    '{WORKDIR}/universal", "--config.scores.batches=1",\n    ',
    r"STEPS = 10": "STEPS = 1",
    r"--config.loop.steps=10": "--config.loop.steps=3",
}


@pytest.fixture(scope="module")
def setup_script():
    spec = importlib.util.spec_from_file_location(
        "colab_setup", ROOT / "launch/colab_setup.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def shortened(workdir):
    found, used = notebook(), set()
    replacements = SHORT | {r"WORKDIR = \"runs/demo\"": f"WORKDIR = {str(workdir)!r}"}
    for cell in found.cells:
        for pattern, text in replacements.items():
            new = re.sub(pattern, lambda _, t=text: t, cell.source, flags=re.MULTILINE)
            if new != cell.source:
                used.add(pattern)
                cell.source = new
    assert used == set(replacements), "the notebook has changed: shorten it anew"
    return found


def client_of(workdir):
    return NotebookClient(
        shortened(workdir),
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "launch")}},
    )


def run_all(client):
    """Runs all cells in the client's kernel, which lives; returns their outputs."""
    client.reset_execution_trackers()
    for index, cell in enumerate(client.nb.cells):
        client.execute_cell(cell, index)
    return outputs(client.nb)


def killed_in_training(workdir):
    """Runs the cells up to the training and kills the kernel amidst it.

    Returns the steps that the metrics of the run have by then.
    """
    client, steps = client_of(workdir), []

    def kill():
        while len(steps) < 2:
            time.sleep(0.05)
            steps[:] = steps_of(workdir)
        os.kill(client.km.provisioner.pid, signal.SIGKILL)

    with client.setup_kernel():
        threading.Thread(target=kill, daemon=True).start()
        with pytest.raises(DeadKernelError):
            run_all(client)
    return steps


def steps_of(workdir):
    return [row["step"] for row in read_metrics(workdir / "universal")]


def outputs(found):
    return {
        cell.source: "".join(
            output.get("text", "") + str(output.get("data", ""))
            for output in cell.outputs
        )
        for cell in found.cells
        if cell.cell_type == "code"
    }


def test_it_is_stored_without_outputs_and_for_a_tpu():
    found = notebook()
    nbformat.validate(found)
    assert found.metadata["accelerator"] == "TPU"
    for cell in found.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A kernel in which all cells have run, after another was killed in the training.

    before, after: the steps that the run's metrics had when that one was killed, and
    have now. said: the outputs by their cells.
    """

    client: NotebookClient
    workdir: Path
    before: list[int]
    said: dict[str, str]
    after: list[int]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """Yields a runtime that lives until the last test."""
    workdir = tmp_path_factory.mktemp("runtime")
    before = killed_in_training(workdir)
    client = client_of(workdir)
    with client.setup_kernel():
        said = run_all(client)
        yield Runtime(client, workdir, before, said, steps_of(workdir))


def about(said, words):
    (found,) = [text for source, text in said.items() if words in source]
    return found


def check_outputs(said):
    """Fails unless every cell has said what it is for."""
    assert "visor_jax is installed" in about(said, "colab_setup.py")
    assert "CPU cores" in about(said, "describe_runtime")
    assert "image/png" in about(said, "plan_figure(")
    assert "image/png" in about(said, 'train("configs/universal')
    assert "image/png" in about(said, "attention_figure(")
    assert "HBox" in about(said, "BudgetExplorer(")
    assert re.search(r"largest digit row 1 .* at sa", about(said, "routed.choose"))
    assert "GFLOP" in about(said, "timing.step")
    assert "trained in" in about(said, "EIGHT =")
    assert "8 cpu devices" in about(said, "EIGHT =")
    # Progress is lines, not a terminal's bars; and nobody is warned of forks.
    assert "\x1b" not in about(said, "EIGHT =")
    assert "os.fork" not in "".join(said.values())
    assert "MB" in about(said, "make_archive")


# These two are run by `.ci/run`, on its newest Python.
@pytest.mark.slow
def test_all_cells_run_and_say_what_they_are_for(runtime):
    check_outputs(runtime.said)


@pytest.mark.slow
def test_a_kernel_that_is_killed_amidst_the_training_loses_no_step(runtime):
    training = about(runtime.said, 'train("configs/universal')
    went_on = int(re.search(r"going on from step (\d+)", training)[1])
    # It saved after it was left alone: not where its last number was written.
    assert runtime.before[-1] <= went_on < STEPS
    # Every number once, up to the end.
    assert runtime.after == sorted(set(runtime.after))
    assert runtime.after[: len(runtime.before)] == runtime.before
    assert runtime.after[-1] == STEPS


@pytest.mark.slow
def test_again_in_the_same_kernel_there_is_nothing_to_train(runtime):
    said = run_all(runtime.client)
    check_outputs(said)
    assert f"going on from step {STEPS}" in about(said, 'train("configs/universal')
    assert steps_of(runtime.workdir) == runtime.after


@pytest.mark.parametrize(
    ("nodes", "expected"), [(("accel0",), "tpu"), (("vfio", "vfio/0"), "tpu"), ((), "")]
)
def test_the_extra_is_that_of_the_machine(
    setup_script, tmp_path, monkeypatch, nodes, expected
):
    for node in nodes:
        (tmp_path / node).mkdir()
    monkeypatch.setattr(setup_script.shutil, "which", lambda _: None)
    assert setup_script.extra(tmp_path) == expected


@pytest.mark.parametrize("version", [12, 13])
def test_the_driver_says_which_cuda(setup_script, tmp_path, monkeypatch, version):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '| CUDA Version: {version}.4 |'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert setup_script.extra(tmp_path) == f"cuda{version}"


def test_this_checkout_and_no_other_counts_as_installed(setup_script, tmp_path):
    assert setup_script.is_installed(ROOT)
    assert not setup_script.is_installed(tmp_path)


def test_what_another_python_left_in_the_checkout_does_not_count(tmp_path):
    elsewhere = tmp_path / "site-packages"
    left = tmp_path / "visor_jax.egg-info/PKG-INFO"
    installed = elsewhere / "visor_jax-0.1.0.dist-info/METADATA"

    def write(file, text):
        file.parent.mkdir(parents=True)
        file.write_text(text)

    facts = "Metadata-Version: 2.1\nName: visor_jax\nVersion: 0.1.0\n"
    write(tmp_path / "visor_jax/__init__.py", "")
    write(left, facts)
    asked = (
        "import importlib.metadata, pathlib, runpy, sys\n"
        f"setup = runpy.run_path({str(ROOT / 'launch/colab_setup.py')!r})\n"
        f"sys.path[1:1] = [{str(elsewhere)!r}]\n"
        "assert importlib.metadata.version('visor_jax')\n"
        "print(setup['is_installed'](pathlib.Path.cwd().resolve()))\n"
    )

    def said():
        # Without what is installed for these tests.
        command = [sys.executable, "-S", "-c", asked]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        ).stdout

    assert said() == "False\n"
    write(installed, facts)
    assert said() == "True\n"


def test_without_a_checkout_the_first_cell_says_what_to_do(tmp_path):
    cells = [c.source for c in notebook().cells if c.cell_type == "code"]
    fields, clone = cells[:2]
    found = subprocess.run(
        [sys.executable, "-c", f"{fields}\n{clone.partition('%run')[0]}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "Say in SOURCE where the code is" in found.stderr


def test_the_readme_opens_the_notebook():
    assert "launch/colab.ipynb" in (ROOT / "README.md").read_text()
    assert json.loads(NOTEBOOK.read_text())["nbformat"] == 4
