"""`python -m visor_jax.timing.accelerator --tiny`: every part on a CPU."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from visor_jax.timing.accelerator.__main__ import PARTS, measure
from visor_jax.timing.accelerator.measure import Deadline

# What the machine with the card lacks.
ABSENT = ("ml_collections", "grain", "array_record", "tensorboardX", "sklearn")
TEXT, NUMBER = (str,), (int, float)
# The rows of each part: {key: its types}; more keys may be there.
TIMED = {"what": TEXT, "shape": TEXT, "ms": NUMBER, "spread": NUMBER, "repeats": (int,)}
OF_NETWORK = {**TIMED, "rows": (int,), "budget": TEXT}
SCHEMA = {
    "attention": {**TIMED, "kernel": TEXT, "flops": NUMBER, "error": NUMBER},
    "prefill": {"what": TEXT, "shape": TEXT, "rows": (int,), "flops": NUMBER},
    "torch": {**TIMED, "kernel": TEXT, "rows": (int,)},
    "decode": {**OF_NETWORK, "bytes": (int,), "tokens_per_s": NUMBER},
    "training": {**OF_NETWORK, "flops": NUMBER, "compile_s": NUMBER},
    "engine": {**TIMED, "budget": TEXT, "requests_per_s": NUMBER},
}


@pytest.fixture(autouse=True)
def _quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def check(rows, schema):
    assert rows
    for row in rows:
        assert "failed" not in row, row
        for key, kinds in schema.items():
            assert isinstance(row[key], kinds), (key, row)
            assert not isinstance(row[key], NUMBER) or row[key] >= 0


def rows_of(name):
    module = importlib.import_module(f"visor_jax.timing.accelerator.{PARTS[name][0]}")
    rows = list(module.rows(tiny=True, deadline=Deadline(1e6)))
    # What a process of its own would print.
    return json.loads(json.dumps(rows))


def test_every_kernel_is_measured_or_says_why_not():
    rows = rows_of("attention")
    measured = [row for row in rows if "refused" not in row]
    check(measured, SCHEMA["attention"])
    found = {(row["what"], row["kernel"]) for row in measured}
    assert found >= {
        (what, kernel)
        for what in ("forward", "gradient")
        for kernel in ("plain", "blockwise")
    }
    # Inputs are bfloat16: 8 bits of mantissa.
    assert all(row["error"] < 0.05 for row in measured)
    assert all(row["refused"] for row in rows if row not in measured)


def test_prefill_measures_every_budget_beside_the_dense_plan():
    rows = rows_of("prefill")
    check(rows, SCHEMA["prefill"])
    budgets = {"dense", "sa0", "sa1:1"}
    for what in ("decoder", "tower + decoder"):
        assert {r["budget"] for r in rows if r["what"] == what} == budgets
    by = {(row["what"], row.get("budget")): row for row in rows}
    tower, alone, both = (
        by["tower", None],
        by["decoder", "sa0"],
        by["tower + decoder", "sa0"],
    )
    assert both["ms"] == pytest.approx(tower["ms"] + alone["ms"])
    assert both["flops"] == pytest.approx(tower["flops"] + alone["flops"])
    flops = [by["decoder", name]["flops"] for name in ("sa0", "sa1:1", "dense")]
    assert flops == sorted(flops)


def test_decoding_measures_steps_and_what_they_read():
    rows = rows_of("decode")
    check(rows, SCHEMA["decode"])
    read = {(row["budget"], row["rows"]): row["bytes"] for row in rows}
    assert set(read) == {(b, n) for b in ("dense", "sa0", "sa1:1") for n in (1, 2)}
    # A SELF layer that is on holds the image: 144 keys and values of one head of 32.
    assert read["sa1:1", 1] - read["sa0", 1] == 144 * 32 * 2 * 4


def test_training_steps_at_the_smallest_and_the_largest_budget():
    rows = rows_of("training")
    check(rows, SCHEMA["training"])
    assert [row["budget"] for row in rows] == ["sa0", "sa1:1"]
    assert rows[0]["flops"] < rows[1]["flops"]


def test_the_engine_answers_each_budget_alone_and_both_mixed():
    rows = rows_of("engine")
    check(rows, SCHEMA["engine"])
    assert [row["budget"] for row in rows] == ["sa0", "sa1:1", "mixed"]
    alone = (rows[0]["ms"] + rows[1]["ms"]) / 2
    assert rows[2]["of_expected"] == pytest.approx(alone / rows[2]["ms"])


@pytest.mark.parity
def test_transformers_are_measured_at_the_same_sizes():
    rows = rows_of("torch")
    check(rows, SCHEMA["torch"])
    assert [row["what"] for row in rows] == ["tower", "decoder", "step"]


@pytest.fixture
def patient(monkeypatch):
    """A machine that tests share may take long to start a process."""
    monkeypatch.setitem(PARTS, "card", ("card", 600.0))


def test_parts_run_in_processes_and_leave_one_json(tmp_path, monkeypatch, patient):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    record = measure(tmp_path, ["card"], limit_s=600, tiny=True)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == record.as_json()
    (part,) = found["parts"]
    assert (part["name"], part["status"]) == ("card", "done")
    check(part["rows"][1:], {"what": TEXT, "shape": TEXT, "ms": NUMBER})
    assert found["card"] == "cpu"
    assert found["versions"]["jax"] == jax.__version__
    assert found["peak_tflops"] > 0 < found["bandwidth"]
    assert (tmp_path / "results.md").read_text() == record.table()


def test_a_part_that_cannot_go_on_says_why(tmp_path, monkeypatch, patient):
    monkeypatch.setenv("JAX_PLATFORMS", "absent")
    (part,) = measure(tmp_path, ["card"], limit_s=600, tiny=True).parts
    assert (part.status, part.rows) == ("failed", [])
    assert "absent" in part.reason
    assert "absent" in (tmp_path / "log.txt").read_text()


def test_no_part_begins_when_all_time_is_used_up(tmp_path):
    record = measure(tmp_path, ["card", "engine"], limit_s=6.0, tiny=True)
    assert [part.status for part in record.parts] == ["skipped", "skipped"]


def test_nothing_needs_what_a_machine_with_a_card_may_lack():
    modules = [f"visor_jax.timing.accelerator.{m}" for m, _ in PARTS.values()]
    modules.append("visor_jax.timing.accelerator.__main__")
    script = (
        "import importlib, sys\n"
        f"for name in {ABSENT}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        # Drawn without pictures of digits, read without files.
        "from visor_jax.timing.accelerator import engine\n"
        "engine._requests(2)\n"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
