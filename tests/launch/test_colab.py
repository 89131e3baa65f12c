"""The notebook runs from its first cell to its last, and is stored without outputs."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch/colab.ipynb"
# What makes the runs short; the notebook itself has a place for it.
SHORT = {
    r"FLAGS = \(\).*": "FLAGS = "
    + repr(
        (
            *("--config.loop.steps=6", "--config.optimizer.warmup_steps=2"),
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


def run(workdir):
    """Returns the notebook after all its cells have run."""
    client = NotebookClient(
        shortened(workdir),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "launch")}},
    )
    return client.execute()


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


@pytest.mark.slow
def test_all_cells_run_and_say_what_they_are_for(tmp_path):
    said = outputs(run(tmp_path))

    def about(words):
        (found,) = [text for source, text in said.items() if words in source]
        return found

    assert "visor_jax is installed" in about("colab_setup.py")
    assert "CPU cores" in about("describe_runtime")
    assert "image/png" in about("plan_figure(")
    assert "image/png" in about('train("configs/universal')
    assert "image/png" in about("attention_figure(")
    assert "SelectionSlider" in about("BudgetExplorer(") or "VBox" in about(
        "BudgetExplorer("
    )
    assert re.search(r"largest digit row 1 .* at sa", about("routed.choose"))
    assert "GFLOP" in about("timing.step")
    assert "trained in" in about("EIGHT =")
    assert "MB" in about("make_archive")
    assert "8 cpu devices" in about("EIGHT =")


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
