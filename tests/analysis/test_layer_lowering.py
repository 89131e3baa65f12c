"""Layers are lowered where it pays, one after another, within the limit."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from visor_jax.analysis.layer_lowering import lower_layers, lowered
from visor_jax.budget import Budget
from visor_jax.layer_plan import LayerPlan

PLAN = LayerPlan.build(5, self_=(0, 1, 3, 4))
STEPS = [(layer, level) for layer in PLAN.self_layers for level in ("read", "off")]


class Additive:
    """Every step of a layer moves the answers, and saves, by a number of its own."""

    def __init__(self, moves, saves):
        self.moves, self.saves = dict(moves), dict(saves)
        self.asked = []

    def steps(self, budget):
        for layer in PLAN.self_layers:
            if layer not in budget.self_layers:
                yield layer, "read"
                if layer not in budget.read_layers:
                    yield layer, "off"

    def measure(self, budgets):
        self.asked += budgets
        return [sum(self.moves[step] for step in self.steps(b)) for b in budgets]

    def cost(self, budget):
        return 1000 - sum(self.saves[step] for step in self.steps(budget))


def numbers(least):
    values = st.floats(least, 100, allow_nan=False)
    return st.lists(values, min_size=8, max_size=8)


@given(numbers(0), numbers(0.5))
def test_each_step_is_the_cheapest_that_is_left(moves, saves):
    by_step = Additive(zip(STEPS, moves, strict=True), zip(STEPS, saves, strict=True))
    found = lower_layers(PLAN, by_step.measure, by_step.cost, limit=1000)
    assert found.path[0] == Budget.all(PLAN)
    assert found.path[-1] == Budget.none()
    assert len(found.path) == 9
    for before, after in itertools.pairwise(found.path):
        left = [*before.self_layers, *before.read_layers]
        rates = {}
        for layer in left:
            (step,) = set(by_step.steps(lowered(before, [layer]))) - set(
                by_step.steps(before)
            )
            rates[layer] = by_step.moves[step] / by_step.saves[step]
        (chosen,) = [layer for layer in left if lowered(before, [layer]) == after]
        assert rates[chosen] == pytest.approx(min(rates.values()))
    assert len(by_step.asked) == len(set(by_step.asked)) == len(found.scored)


@pytest.mark.parametrize("limit", [6, 12, 20, 28, 36, 200])
def test_no_more_is_measured_than_the_limit_says(limit):
    rng = np.random.default_rng(0)
    by_step = Additive(
        zip(STEPS, rng.random(8), strict=True), zip(STEPS, rng.random(8), strict=True)
    )
    found = lower_layers(PLAN, by_step.measure, by_step.cost, limit=limit)
    assert len(by_step.asked) <= limit
    # It gets to the bottom wherever a round a step would fit, or fewer rounds do.
    if limit >= 12:
        assert found.path[-1] == Budget.none()
    assert {each.budget for each in found.scored} == set(by_step.asked)


def test_what_saves_nothing_goes_first_where_it_changes_nothing():
    moves = dict.fromkeys(STEPS, 1.0) | {(4, "read"): 0.0, (0, "read"): 0.5}
    saves = dict.fromkeys(STEPS, 1.0) | {(4, "read"): 0.0, (0, "read"): 0.0}
    by_step = Additive(moves, saves)
    path = lower_layers(PLAN, by_step.measure, by_step.cost, limit=1000).path
    assert path[1] == Budget((0, 1, 3), (4,))
    # What only harms comes last.
    assert 0 in path[-3].self_layers


def test_a_wrong_limit_and_a_plan_without_choice_are_refused():
    with pytest.raises(ValueError, match="limit=5 must be at least 6"):
        lower_layers(PLAN, lambda budgets: [], lambda budget: 0, limit=5)
    with pytest.raises(ValueError, match="no SELF layers"):
        lower_layers(LayerPlan.build(2), lambda b: [], lambda b: 0, limit=9)
