"""Sweeps: what is viable, what the search looks at, and the file it writes."""

import itertools
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests import own_flags
from tests.evals.small import BUDGETS, CONFIG
from tests.inference import page_run
from tests.tiny import params_of
from visor_jax import sweep
from visor_jax.analysis.budget_sweep import (
    ScoredBudget,
    pareto,
    write_budget_file,
)
from visor_jax.analysis.budget_sweep import sweep as search
from visor_jax.budget import Budget, BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.variants import llava_ov_0p5b

PLAN = LayerPlan.build(6, cross=(0,), self_=(1, 3, 5))
WIDE = LayerPlan.build(24, cross=(0,), self_=range(1, 13))
GAIN = {layer: 1 / (3 + layer) for layer in WIDE.self_layers}


def _subsets(plan):
    layers = plan.self_layers
    sizes = range(len(layers) + 1)
    return [Budget(c) for n in sizes for c in itertools.combinations(layers, n)]


def _additive(budgets):
    return [
        ScoredBudget(
            budget=budget,
            cost=len(budget.self_layers),
            score=sum(GAIN[layer] for layer in budget.self_layers),
        )
        for budget in budgets
    ]


@hypothesis.given(
    scores=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    margin=st.sampled_from([0.0, 1.0]),
)
def test_viable_budgets_beat_every_cheaper_one(scores, margin):
    scored = [
        ScoredBudget(budget=budget, cost=len(budget.self_layers), score=score)
        for budget, score in zip(_subsets(PLAN), scores, strict=True)
    ]
    found = pareto(scored, PLAN, margin)
    kept = {each.budget for each in found}
    extremes = {Budget.none(), Budget.all(PLAN)}
    assert extremes <= kept
    best = float("-inf")
    for each in found:
        if each.budget not in extremes:
            assert each.score > best + margin
        best = max(best, each.score)
    for each in scored:
        if each.budget in kept:
            continue
        # Nothing is left out but for one as cheap, and nearly as good at least.
        cheaper = [other.score for other in found if other.cost <= each.cost]
        assert each.score <= max(cheaper) + margin


def test_small_steps_add_up():
    scored = [
        ScoredBudget(budget=Budget(tuple(range(1, n + 1))), cost=n, score=0.4 * n)
        for n in range(9)
    ]
    plan = LayerPlan.build(10, cross=(0,), self_=range(1, 9))
    kept = [len(each.budget.self_layers) for each in pareto(scored, plan, 1.0)]
    assert kept == [0, 3, 6, 8]


def test_all_subsets_are_evaluated_where_there_are_few():
    done = search(PLAN, lambda budgets: _additive_of(budgets), limit=8)
    assert {each.budget for each in done.scored} == set(_subsets(PLAN))
    assert done.possible == 8


def _additive_of(budgets):
    return [
        ScoredBudget(budget=b, cost=len(b.self_layers), score=float(len(b.self_layers)))
        for b in budgets
    ]


def test_the_search_keeps_to_its_limit_and_finds_the_best_of_each_size():
    seen = []

    def evaluate(budgets):
        seen.extend(budgets)
        return _additive(budgets)

    done = search(WIDE, evaluate, limit=150)
    assert len(seen) == len(done.scored) <= 150
    assert len(set(seen)) == len(seen)
    assert done.possible == 4096
    best = sorted(WIDE.self_layers, key=lambda layer: -GAIN[layer])
    for size in range(1, 12):
        wanted = Budget(tuple(sorted(best[:size])))
        assert wanted in {each.budget for each in done.viable}
    assert len(search(WIDE, _additive, limit=20).scored) == 20
    assert Budget.all(WIDE) in {
        b.budget for b in search(WIDE, _additive, limit=2).scored
    }


def test_impossible_sweeps_are_refused():
    with pytest.raises(ValueError, match="no SELF layers"):
        search(LayerPlan.build(3, cross=(0,)), _additive)
    with pytest.raises(ValueError, match="limit=1 must be at least 2"):
        search(PLAN, _additive_of, limit=1)


def test_a_file_is_read_back_for_the_same_plan_only(tmp_path):
    file = tmp_path / "budgets/viable.json"
    done = search(PLAN, _additive_of)
    write_budget_file(file, "viable", done, pages=3)
    found = BudgetSet.parse(f"@{file}", PLAN).budgets
    assert found == tuple(each.budget for each in done.viable)
    assert json.loads(file.read_text())["pages"] == 3
    with pytest.raises(ValueError, match=r"SELF layers \[1, 3, 5\].*there,.*\[1, 2, 3"):
        BudgetSet.parse(f"@{file}", WIDE)
    file.write_text("{}")
    with pytest.raises(ValueError, match="holds no budgets"):
        BudgetSet.parse(f"@{file}", PLAN)
    with pytest.raises(ValueError, match="holds no budgets"):
        BudgetSet.parse(f"@{tmp_path / 'gone.json'}", PLAN)


def test_what_cannot_be_swept_is_refused_before_any_work(tmp_path, monkeypatch):
    def read(stored):
        raise AssertionError("parameters were read")

    monkeypatch.setattr(sweep, "open_network", read)
    workdir = page_run.save(tmp_path / "run", {"a": np.zeros(1)})
    with pytest.raises(ValueError, match="limit=1"):
        sweep.sweep_checkpoint(str(workdir), limit=1)
    with pytest.raises(ValueError, match="is a file, not a folder"):
        sweep.sweep_checkpoint(str(workdir), out=__file__)
    other = page_run.save(
        tmp_path / "other", {"a": np.zeros(1)}, model=llava_ov_0p5b().to_dict()
    )
    with pytest.raises(ValueError, match="cannot answer the embedded benchmark"):
        sweep.sweep_checkpoint(str(other))


def test_a_trained_network_is_swept_and_its_file_configures_a_run(tmp_path, capsys):
    workdir = page_run.save(
        tmp_path / "run",
        params_of(CONFIG)["params"],
        model=CONFIG.to_dict(),
        budgets=list(BUDGETS.names),
    )
    done, file = sweep.sweep_checkpoint(str(workdir), pages=2, margin=0.0)
    assert len(done.scored) == 2
    assert file == workdir / "budgets/viable.json"
    assert file.with_suffix(".png").exists()
    content = json.loads(file.read_text())
    costs = [each["cost"] for each in content["scores"]]
    assert costs == sorted(costs)
    for each in content["scores"]:
        tasks = each["tasks"]
        assert each["score"] == pytest.approx((each["easy"] + each["hard"]) / 2)
        assert each["easy"] == pytest.approx(
            sum(tasks[t] for t in ("colour", "ring", "half", "square")) / 4
        )
    found = BudgetSet.parse((f"@{file}",), CONFIG.plan)
    assert found.names == tuple(content["budgets"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--prompts=4"], "--prompts would change nothing without --calibrate"),
        (["--calibrate=pages", "--pages=4"], "--pages would change nothing with"),
        (
            ["--calibrate=in.jsonl", "--pages=4", "--split=test"],
            "--pages, --split would change nothing with --calibrate=in.jsonl",
        ),
        # Those that are read are not refused: what is wrong is the checkpoint.
        (["--calibrate=pages", "--prompts=4", "--split=test"], "gone is no folder"),
        (["--pages=4", "--split=test"], "gone does not exist"),
    ],
)
def test_flags_that_nothing_would_read_are_refused(given, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(sweep, "--checkpoint=gone", *given)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_only_mistakes_of_the_user_end_in_one_line(tmp_path, monkeypatch, capsys):
    workdir = page_run.save(
        tmp_path / "run",
        params_of(CONFIG)["params"],
        model=CONFIG.to_dict(),
        budgets=list(BUDGETS.names),
    )
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(sweep, f"--checkpoint={workdir}", "--split=none")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")

    def wrong(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(sweep, "predict", wrong)
    with pytest.raises(ValueError, match="a bug"):
        own_flags.call(sweep, f"--checkpoint={workdir}", "--pages=2")
