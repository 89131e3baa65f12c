"""Rows of what a policy chooses, against plain means over questions."""

import dataclasses

import numpy as np
import pytest

from tests.evals import small
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.pages.benchmark import GROUPS, PageBenchmark
from visor_jax.evals.policy_choices import policy_choices
from visor_jax.evals.report.markdown import report_text
from visor_jax.evals.report.policy_rows import PolicyChoices
from visor_jax.evals.report.report import ReportFacts, build_report
from visor_jax.evals.report.tables import table_text
from visor_jax.policy.network import Policy, PolicyConfig


@pytest.fixture(scope="module")
def asked():
    return PageBenchmark.make(6)


def _with_policy(run, classes):
    chosen = PolicyChoices(label="policy:test", choices={"auto": np.ravel(classes)})
    return dataclasses.replace(run, policy=chosen)


@pytest.fixture
def report_facts():
    return ReportFacts(git_commit="abc", machine="here", command="evaluate")


def _rows(runs, report_facts):
    return build_report(runs, report_facts)["rows"]


def test_a_row_is_the_mean_over_questions(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (6, len(TASK_NAMES)))
    *fixed, row = _rows([_with_policy(run, classes)], report_facts)
    assert [r["budget"] for r in fixed] == ["sa0", "sa1:1"]
    assert (row["model"], row["budget"]) == ("policy:test", "auto")
    right = np.where(
        classes == 0, *run.predictions.main_scores.reshape(2, *classes.shape)
    )
    costs = np.array([r["flops"]["llm_prefill"] for r in fixed])[classes]
    means = {}
    for group, names in GROUPS.items():
        columns = [TASK_NAMES.index(name) for name in names]
        assert row["accuracy"][group] == pytest.approx(right[:, columns].mean())
        means[group] = costs[:, columns].mean()
        assert row["by_group"][group]["llm_prefill"] == pytest.approx(means[group])
        on = row["by_group"][group]["self_layers_on"]
        assert on == pytest.approx(classes[:, columns].mean())
    mixed = (means["easy"] + means["hard"]) / 2
    assert row["flops"]["llm_prefill"] == pytest.approx(mixed)
    dense = fixed[0]["flops"]["llm_prefill"] * fixed[0]["llm_saving"]
    assert row["llm_saving"] == pytest.approx(dense / mixed)


@pytest.mark.parametrize("side", [None, 3])
def test_a_fixed_choice_is_that_budget(side, asked, report_facts):
    config = dataclasses.replace(small.CONFIG, projector_convolution=side)
    run = small.made_up_run(asked, "universal", config=config)
    ones = np.ones((6, len(TASK_NAMES)), int)
    _, fixed, row = _rows([_with_policy(run, ones)], report_facts)
    for key in ("accuracy", "tasks", "flops", "llm_saving", "ms_per_sample"):
        assert row[key] == pytest.approx(fixed[key])
    assert row["end_to_end_saving"] == pytest.approx(fixed["end_to_end_saving"])
    assert row["intervals"]["hard"] == pytest.approx(fixed["intervals"]["hard"])


def test_a_network_counts_once_however_many_checkpoints_hold_it(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    zeros = np.zeros((6, len(TASK_NAMES)), int)
    other = small.made_up_run(asked, "universal", seed=1)
    runs = [run, _with_policy(run, zeros), _with_policy(other, zeros)]
    rows = _rows(runs, report_facts)
    assert [r["budget"] for r in rows] == ["sa0", "sa1:1", "auto"]
    # The same two networks behind fixed budgets and choices.
    assert [row["seeds"] for row in rows] == [[0, 1]] * 3
    both = [_rows([r], report_facts)[-1] for r in runs[1:]]
    singles = [row["accuracy"]["hard"] for row in both]
    for row in (rows[0], rows[-1]):
        assert row["spread"]["hard"]["values"] == pytest.approx(singles)
        assert row["accuracy"]["hard"] == pytest.approx(np.mean(singles))
    # All choose sa0, so that it is the same mean, and the same interval of it.
    assert rows[-1]["intervals"] == rows[0]["intervals"]
    assert rows[-1]["n"] == rows[0]["n"]


def test_a_saving_is_that_of_the_mean_cost(asked, report_facts):
    runs = []
    for seed, classes in enumerate((0, 1)):
        chosen = np.full((6, len(TASK_NAMES)), classes)
        run = small.made_up_run(asked, "universal", seed=seed)
        runs.append(_with_policy(run, chosen))
    cheap, full, row = _rows(runs, report_facts)
    cost = (cheap["flops"]["llm_prefill"] + full["flops"]["llm_prefill"]) / 2
    assert row["flops"]["llm_prefill"] == pytest.approx(cost)
    dense = full["flops"]["llm_prefill"] * full["llm_saving"]
    assert row["llm_saving"] == pytest.approx(dense / cost)
    # Each network's own time of what it chose: 1 and 2 ms.
    assert row["ms_per_sample"] == pytest.approx(1.5)


def test_predicted_times_are_told_from_measured_ones(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    ones = np.ones((6, len(TASK_NAMES)), int)
    report = build_report([_with_policy(run, ones)], report_facts)
    assert [r["ms_is"] for r in report["rows"]] == ["measured"] * 2 + ["predicted"]
    shown = run.predictions
    for text in (table_text(report["rows"], shown), report_text(report, shown)):
        lines = [line for line in text.splitlines() if "≈1.00" in line]
        assert len(lines) == 1
        assert "auto" in lines[0]
        assert "≈: " in text
    fixed = build_report([run], report_facts)
    text = table_text(fixed["rows"], shown) + report_text(fixed, shown)
    assert "≈" not in text


def test_several_policies_have_their_whole_names(asked, report_facts):
    run = small.made_up_run(asked, "universal")
    zeros = np.zeros((6, len(TASK_NAMES)), int)
    runs = []
    for label in ("policy:one", "policy:two"):
        chosen = PolicyChoices(label=label, choices={"auto": zeros.ravel()})
        runs.append(dataclasses.replace(run, policy=chosen))
    report = build_report(runs, report_facts)
    assert "policy:one" in table_text(report["rows"], run.predictions)
    assert "| policy:two | `auto` |" in report_text(report, run.predictions)
    assert [each["model"] for each in report["runs"]] == ["policy:one", "policy:two"]


def test_choices_have_references(asked):
    run = small.made_up_run(asked, "universal")
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6 * len(TASK_NAMES), 2)).astype(np.float32)
    policy = Policy(config=PolicyConfig(num_budgets=2), params=None, costs=(0.4, 1.0))
    found = policy_choices("policy:test", logits, policy, run.predictions, (0.0, 1e6))
    assert list(found.choices) == ["auto", "auto, cost 1e+06", "random", "oracle"]
    np.testing.assert_array_equal(found.choices["auto"], logits.argmax(axis=-1))
    assert not found.choices["auto, cost 1e+06"].any()
    cheap, dear = run.predictions.main_scores
    np.testing.assert_array_equal(
        found.choices["oracle"] == 1, (cheap == 0) & (dear == 1)
    )
    # The same budgets for other questions of the group, so that costs are the same.
    pages = {name: each.reshape(6, -1) for name, each in found.choices.items()}
    auto, random = pages["auto"], pages["random"]
    assert (auto != random).any()
    for names in GROUPS.values():
        columns = [TASK_NAMES.index(name) for name in names]
        counts = [np.bincount(x[:, columns].ravel()) for x in (auto, random)]
        np.testing.assert_array_equal(*counts)
