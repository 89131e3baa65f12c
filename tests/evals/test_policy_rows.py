"""Rows of what a policy chooses, against plain means over questions."""

import dataclasses

import numpy as np
import pytest

from tests.evals import small
from visor_jax.evals.evaluation_set import GROUPS, EvaluationSet
from visor_jax.evals.policy_choices import policy_choices
from visor_jax.evals.policy_rows import PolicyChoices
from visor_jax.evals.report import ReportFacts, build_report
from visor_jax.policy.network import Policy, PolicyConfig


@pytest.fixture(scope="module")
def asked():
    return EvaluationSet.make(6)


def _with_policy(run, classes):
    chosen = PolicyChoices(label="policy:test", choices={"auto": classes})
    return dataclasses.replace(run, policy=chosen)


@pytest.fixture
def report_facts():
    return ReportFacts(git_commit="abc", machine="here", command="evaluate")


def _rows(runs, asked, report_facts):
    return build_report(runs, asked, report_facts)["rows"]


def test_a_row_is_the_mean_over_questions(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (6, len(asked.task_names)))
    *fixed, row = _rows([_with_policy(run, classes)], asked, report_facts)
    assert [r["budget"] for r in fixed] == ["sa0", "sa1:1"]
    assert (row["model"], row["budget"]) == ("policy:test", "auto")
    right = np.where(classes == 0, *(r.correct for r in run.results))
    costs = np.array([r["flops"]["llm_prefill"] for r in fixed])[classes]
    means = {}
    for group, names in GROUPS.items():
        columns = [asked.task_names.index(name) for name in names]
        assert row["accuracy"][group] == pytest.approx(right[:, columns].mean())
        means[group] = costs[:, columns].mean()
        assert row["by_group"][group]["llm_prefill"] == pytest.approx(means[group])
        on = row["by_group"][group]["self_layers_on"]
        assert on == pytest.approx(classes[:, columns].mean())
    mixed = (means["easy"] + means["hard"]) / 2
    assert row["flops"]["llm_prefill"] == pytest.approx(mixed)
    dense = fixed[0]["flops"]["llm_prefill"] * fixed[0]["llm_saving"]
    assert row["llm_saving"] == pytest.approx(dense / mixed)


def test_a_fixed_choice_is_that_budget(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    ones = np.ones((6, len(asked.task_names)), int)
    _, fixed, row = _rows([_with_policy(run, ones)], asked, report_facts)
    for key in ("accuracy", "tasks", "flops", "llm_saving", "ms_per_sample"):
        assert row[key] == pytest.approx(fixed[key])
    assert row["end_to_end_saving"] == pytest.approx(fixed["end_to_end_saving"])
    assert row["intervals"]["hard"] == pytest.approx(fixed["intervals"]["hard"])


def test_the_network_of_a_policy_counts_once(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    zeros = np.zeros((6, len(asked.task_names)), int)
    other = small.made_up_run(asked, "universal", seed=1)
    runs = [run, _with_policy(run, zeros), _with_policy(other, zeros)]
    rows = _rows(runs, asked, report_facts)
    assert [r["budget"] for r in rows] == ["sa0", "sa1:1", "auto"]
    assert "spread" not in rows[0]
    both = [_rows([r], asked, report_facts)[-1]["accuracy"]["hard"] for r in runs[1:]]
    assert rows[-1]["spread"]["hard"]["values"] == pytest.approx(both)
    assert rows[-1]["accuracy"]["hard"] == pytest.approx(np.mean(both))


def test_choices_have_references(asked):
    run = small.made_up_run(asked, "universal")
    tasks = len(asked.task_names)
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6, tasks, 2)).astype(np.float32)
    policy = Policy(config=PolicyConfig(num_budgets=2), params=None, costs=(0.4, 1.0))
    found = policy_choices("policy:test", logits, policy, run.results, (0.0, 1e6))
    assert list(found.choices) == ["auto", "auto, cost 1e+06", "random", "oracle"]
    np.testing.assert_array_equal(found.choices["auto"], logits.argmax(axis=-1))
    assert not found.choices["auto, cost 1e+06"].any()
    cheap, dear = (result.correct for result in run.results)
    np.testing.assert_array_equal(
        found.choices["oracle"] == 1, (cheap == 0) & (dear == 1)
    )
    assert found.choices["random"].shape == (6, tasks)
