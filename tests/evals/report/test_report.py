import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tests.evals.small import BUDGETS, CONFIG, made_up_run
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS
from visor_jax.evals.predictions import DENSE_END_TO_END
from visor_jax.evals.report.report import (
    ReportFacts,
    build_report,
    check_label,
    check_policy_label,
    write_report,
)
from visor_jax.evals.report.rows import make_rows
from visor_jax.evals.report.tables import budget_name, table_text
from visor_jax.flops.account import account, savings

MADE = ReportFacts(git_commit="abc", machine="2 x CPU", command="make report")
# The contract: other programs read this.
TOP = ["preset", "git_commit", "machine", "wall_clock_s", "train_steps", "seeds"]
ROW = {
    "model": str,
    "budget": str,
    "self_layers_on": int,
    "accuracy": dict,
    "tasks": dict,
    "n": dict,
    "flops": dict,
    "llm_saving": float,
    "end_to_end_saving": float,
    "ms_per_sample": float,
}
FLOPS = {"tower", "projector", "llm_prefill", "decode_per_token"}


def _all_kinds(benchmark):
    return [
        made_up_run(benchmark, "universal", seed=0, right=0.6),
        made_up_run(benchmark, "dense", right=0.9),
        made_up_run(benchmark, "universal", seed=1, right=0.8),
        made_up_run(benchmark, "dedicated:sa0"),
    ]


def test_report_keeps_its_contract_and_writes_every_file(benchmark, tmp_path):
    written = write_report(_all_kinds(benchmark), benchmark, MADE, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == written
    assert [key for key in report if key in TOP] == TOP
    assert report["seeds"] == [0, 1]
    for row in report["rows"]:
        assert {k: type(row[k]) for k in ROW} == ROW
        assert set(row["accuracy"]) == {"easy", "hard"}
        assert list(row["tasks"]) == list(row["n"]) == list(TASK_NAMES)
        assert set(row["n"].values()) == {5}
        assert set(row["flops"]) == FLOPS
        for name, (low, high) in row["intervals"].items():
            value = {**row["accuracy"], **row["tasks"]}[name]
            assert 0 <= low <= value <= high <= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("accuracy_vs_flops.png", "examples.png", "report.json", "report.md"),
        "tasks_by_budget.png",
    ]
    for picture in tmp_path.glob("*.png"):
        assert min(Image.open(picture).size) > 300
    text = (tmp_path / "report.md").read_text()
    for said in (
        "make report",
        "2 x CPU",
        "Against the controls",
        "## Seeds",
        "Wilson",
    ):
        assert said in text


def test_rows_follow_models_and_budgets(benchmark):
    rows = build_report(_all_kinds(benchmark), MADE)["rows"]
    assert [(r["model"], r["budget"], r["self_layers_on"]) for r in rows] == [
        ("universal", "sa0", 0),
        ("universal", "sa1:1", 1),
        ("dense", "sa3:0,1,2", 3),
        ("dedicated:sa0", "sa0", 0),
    ]
    assert rows[2]["llm_saving"] == rows[2]["end_to_end_saving"] == 1.0
    assert rows[0]["llm_saving"] > rows[1]["llm_saving"] > 1.0
    assert rows[0]["llm_saving"] > rows[0]["end_to_end_saving"] > 1.0


def test_dense_has_no_convolution_behind_its_projector(benchmark):
    """Against the account; end to end is told by the dense network's own projector."""
    config = dataclasses.replace(CONFIG, projector_convolution=3)
    run = made_up_run(benchmark, "universal", config=config)
    for row, budget in zip(make_rows([run]), run.predictions.budgets, strict=True):
        lengths = dataclasses.asdict(PROMPT_LENGTHS)
        del lengths["image_slots"]
        expected = savings(account(config, budget, **lengths, logit_positions=1))
        assert row["end_to_end_saving"] == pytest.approx(expected.end_to_end_saving)
        assert row["llm_saving"] == pytest.approx(expected.llm_saving)


def test_older_predictions_do_not_say_what_dense_takes_end_to_end(benchmark):
    run = made_up_run(benchmark, "universal")
    flops = {k: v for k, v in run.predictions.flops.items() if k != DENSE_END_TO_END}
    older = dataclasses.replace(run.predictions, flops=flops)
    assert make_rows([run]) == make_rows([dataclasses.replace(run, predictions=older)])


def test_seeds_become_means_with_spread(benchmark):
    runs = [made_up_run(benchmark, "universal", seed=s) for s in (3, 4)]
    single = [make_rows([run])[0] for run in runs]
    merged = make_rows(runs)[0]
    assert merged["seeds"] == [3, 4]
    assert "spread" not in single[0]
    for group in ("easy", "hard"):
        values = [row["accuracy"][group] for row in single]
        assert merged["accuracy"][group] == pytest.approx(np.mean(values))
        assert merged["spread"][group]["values"] == pytest.approx(values)
        assert merged["spread"][group]["std"] == pytest.approx(np.std(values, ddof=1))
    for task in TASK_NAMES:
        values = [row["tasks"][task] for row in single]
        assert merged["tasks"][task] == pytest.approx(np.mean(values))
    assert merged["ms_per_sample"] == pytest.approx(4.5)
    assert merged["n"] == single[0]["n"]


@pytest.mark.parametrize("label", ["", "Universal", "dedicated", "dedicated:"])
def test_unknown_labels_are_named(label):
    with pytest.raises(ValueError, match="Unknown model label"):
        check_label(label)


@pytest.mark.parametrize("label", ["", "policy", "policy:", "universal"])
def test_a_policy_is_called_one(label):
    check_policy_label("policy:cheap")
    with pytest.raises(ValueError, match="Policy label"):
        check_policy_label(label)


def test_printed_table_is_aligned_and_fits(benchmark):
    runs = _all_kinds(benchmark)
    report = build_report(runs, MADE)
    lines = table_text(report["rows"], runs[0].predictions).splitlines()
    assert max(map(len, lines)) <= 100
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[0].split()[:3] == ["model", "budget", "SELF"]
    assert "±" in lines[1]
    assert "±" not in lines[3]
    alone = build_report(runs[:1], MADE)
    text = table_text(alone["rows"], runs[0].predictions)
    assert "model" not in text.splitlines()[0]


def test_long_budget_names_are_shortened():
    name = "sa9:" + ",".join(map(str, range(9)))
    assert budget_name({"budget": name}) == "sa9:0,1,…,8"
    reading = {"budget": "sa3:0,1,3+rd6:2,4,5,6,7,8"}
    assert budget_name(reading) == "sa3:0,1,3+rd6:2,4,…,8"
    assert budget_name({"budget": BUDGETS.largest.name}) == "sa1:1"
