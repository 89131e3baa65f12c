"""The report of a policy: its numbers against plain loops over made-up samples."""

import json

import numpy as np
import pytest

from visor_jax.budget import BudgetSet
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.pages.benchmark import GROUPS
from visor_jax.evals.pages.policy_report import PolicyFacts, write_policy_report
from visor_jax.layer_plan import LayerPlan
from visor_jax.policy.adequacy import Adequacy, Uncalibrated
from visor_jax.policy.scores import ScoredSamples

BUDGETS = BudgetSet.parse(
    ["none", "sa1:1", "all"], LayerPlan.build(4, cross=(0,), self_=(1, 2))
)
COSTS = np.array([0.2, 0.6, 1.0])
COUNT = 12 * len(TASK_NAMES)
FACTS = PolicyFacts(
    label="policy:made-up",
    seed=0,
    checkpoint="here",
    network="there",
    train_steps=1,
    wall_clock_s=1.0,
    git_commit="abc",
    pages=12,
)


@pytest.fixture(scope="module")
def made_up():
    """Returns (logits, samples, task of each): every task 12 times."""
    rng = np.random.default_rng(0)
    correct = rng.random((COUNT, 3)) < [0.4, 0.6, 0.9]
    samples = ScoredSamples(
        routing=np.zeros((COUNT, 2), np.float32),
        image=np.zeros((COUNT, 2), np.float32),
        correct=correct,
        log_likelihood=np.log(np.where(correct, 0.9, 0.2)).astype(np.float32),
        rows=np.arange(COUNT, dtype=np.int32),
        slots=np.zeros(COUNT, np.int32),
    )
    logits = rng.normal(size=(COUNT, 3)).astype(np.float32)
    return logits, samples, rng.permutation(np.arange(COUNT) % len(TASK_NAMES))


def written(made_up, out, adequacy):
    logits, samples, tasks = made_up
    text = write_policy_report(
        logits, samples, tasks, BUDGETS, COSTS, FACTS, adequacy=adequacy, out=out
    )
    return text, json.loads((out / "policy.json").read_text())


def test_rows_are_means_over_the_questions_of_a_group(made_up, tmp_path):
    logits, samples, tasks = made_up
    _, report = written(made_up, tmp_path, Adequacy())
    for row in report["auto"]:
        taken = [
            max(range(3), key=lambda k: x[k] - row["preference"] * COSTS[k])
            for x in logits.astype(float)
        ]
        for group, names in GROUPS.items():
            mine = [i for i in range(COUNT) if TASK_NAMES[tasks[i]] in names]
            right = np.mean([samples.correct[i, taken[i]] for i in mine])
            cost = np.mean([COSTS[taken[i]] for i in mine])
            layers = np.mean([(0, 1, 2)[taken[i]] for i in mine])
            assert row["accuracy"][group] == pytest.approx(right)
            assert row["cost"][group] == pytest.approx(cost)
            assert row["self_layers"][group] == pytest.approx(layers)
        assert row["cost"]["mixed"] == pytest.approx(
            (row["cost"]["easy"] + row["cost"]["hard"]) / 2
        )
        # Whoever knows the task's name alone is at least as good as the best mixture.
        same = row["at_equal_cost"]
        assert same["task"]["hard"] >= same["line"]["hard"] - 1e-9
    for k, row in enumerate(report["fixed"]):
        assert row["cost"]["mixed"] == pytest.approx(COSTS[k])
        assert row["accuracy"]["mixed"] == pytest.approx(
            np.mean(
                [
                    samples.correct[np.isin(tasks, own), k].mean()
                    for own in (range(4), range(4, 10))
                ]
            )
        )
    assert report["oracle"]["accuracy"]["hard"] == pytest.approx(
        samples.correct[tasks >= 4].any(axis=1).mean()
    )


def test_what_is_no_probability_is_not_calibrated(made_up, tmp_path):
    text, report = written(made_up, tmp_path, Adequacy())
    assert report["calibration"]["samples"] == COUNT
    assert (tmp_path / "calibration.png").stat().st_size > 1000
    assert "calibration error" in text
    text, report = written(made_up, tmp_path, Uncalibrated("scores are nats"))
    assert report["calibration"] == {"not_calibrated": "scores are nats"}
    assert not (tmp_path / "calibration.png").exists()
    assert "not calibrated: scores are nats" in text
