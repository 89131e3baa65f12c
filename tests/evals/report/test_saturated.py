"""Which hard tasks tell no budgets apart; expected values worked out by hand."""

import pytest

from tests.evals.small import made_up_run
from visor_jax.evals.report.report import ReportFacts, write_report
from visor_jax.evals.report.saturated import regrouped, saturated_tasks

GROUPS = {"easy": ("colour", "ring"), "hard": ("read", "bar")}


def row(model="universal", read=0.5, bar=1.0):
    tasks = {"colour": 0.9, "ring": 0.8, "read": read, "bar": bar}
    return {"model": model, "budget": "sa0", "tasks": tasks}


def test_only_what_the_universal_network_answers_at_every_budget_is_saturated():
    assert saturated_tasks([row(), row(read=0.9, bar=0.99)], GROUPS) == ["bar"]
    assert saturated_tasks([row(), row(bar=0.98)], GROUPS) == []
    assert saturated_tasks([row(), row(), row("dense", bar=0.1)], GROUPS) == ["bar"]
    assert saturated_tasks([row("dense"), row("dense")], GROUPS) == []


def test_one_budget_alone_tells_nothing_of_others():
    assert saturated_tasks([row()], GROUPS) == []


def test_nothing_is_hard_where_no_group_is_called_so():
    assert saturated_tasks([row(), row()], {"all": tuple(row()["tasks"])}) == []


def test_means_with_saturated_tasks_called_easy():
    means = regrouped(row(), GROUPS, ["bar"])
    assert means == pytest.approx({"easy": 0.9, "hard": 0.5})
    every = regrouped(row(), GROUPS, ["read", "bar"])
    assert every == {"easy": pytest.approx(0.8), "hard": None}


@pytest.mark.parametrize("right", [0.5, 1.0])
def test_a_report_shows_both_groupings_where_a_task_is_saturated(
    benchmark, tmp_path, right
):
    run = made_up_run(benchmark, "universal", right=right)
    made = ReportFacts(git_commit="abc", machine="CPU", command="make")
    shown = write_report([run], benchmark, made, tmp_path)
    bars = [row["tasks"]["bar"] for row in shown["rows"]]
    assert (min(bars) == 1.0) == (right == 1.0)
    text = (tmp_path / "report.md").read_text()
    assert ("easy, regrouped" in text) == (right == 1.0)
    if right == 1.0:
        # Every hard task is saturated: none is left.
        budgets = [row["budget"] for row in shown["rows"]]
        for budget in budgets:
            line = f"| universal | `{budget}` | 100.0 | 100.0 | 100.0 | – |"
            assert line in text
