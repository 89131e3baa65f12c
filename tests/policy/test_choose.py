"""The choice among budgets and what it costs."""

import itertools

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from tests import tiny
from visor_jax.budget import BudgetSet
from visor_jax.flops.account import account
from visor_jax.policy.choose import choose, choose_budgets, relative_costs

COSTS = np.array([0.2, 1.0, 0.5])
_FINITE = {"allow_nan": False, "width": 32}


def test_the_best_logit_wins_and_of_equals_the_cheapest():
    logits = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 3.0, 3.0]])
    assert choose(logits, COSTS).tolist() == [1, 0, 2]


def test_a_preference_is_a_price_per_unit_of_cost():
    logits = np.array([[0.0, 4.0, 3.0]])
    # 4 - 1.0 p against 3 - 0.5 p: equal at 2; 3 - 0.5 p against -0.2 p: equal at 10.
    chosen = [int(choose(logits, COSTS, p)[0]) for p in (-5, 1.9, 2.1, 9.9, 10.1)]
    assert chosen == [1, 1, 2, 2, 0]


def test_every_sample_may_have_a_preference_of_its_own():
    logits = np.array([[0.0, 4.0, 3.0]] * 5)
    wishes = [9.9, -5, 10.1, 2.1, 1.9]
    assert choose(logits, COSTS, wishes).tolist() == [2, 1, 0, 2, 1]
    with pytest.raises(ValueError, match="finite"):
        choose(logits, COSTS, [0, 0, np.nan, 0, 0])


@hypothesis.given(
    logits=arrays.arrays(np.float64, (7, 5), elements=st.floats(-50, 50, **_FINITE)),
    costs=arrays.arrays(np.float64, 5, elements=st.floats(0.125, 1, **_FINITE)),
    preferences=st.lists(st.floats(-100, 100, **_FINITE), min_size=2, max_size=5),
)
def test_the_mean_cost_never_rises_with_the_preference(logits, costs, preferences):
    mean = [costs[choose(logits, costs, p)].mean() for p in sorted(preferences)]
    # Sums of a few costs, the same up to rounding where the choice is the same.
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(mean))


def test_budgets_come_in_the_order_of_their_set():
    budgets = BudgetSet.parse(["all", "none", "sa1:1"], tiny.VISOR.plan)
    logits = np.eye(3)[[2, 0, 1]]
    chosen = choose_budgets(logits, [1.0, 0.1, 0.5], budgets)
    assert [budget.name for budget in chosen] == ["sa1:1", "sa2:1,3", "sa0"]


def test_costs_are_flops_of_the_prefill_relative_to_the_dearest():
    budgets = tiny.every_budget(tiny.VISOR)
    lengths = {"text_tokens": 7, "image_tokens": 30}
    costs = relative_costs(tiny.VISOR, budgets, **lengths)
    flops = [
        account(tiny.VISOR, b, crops=0, logit_positions=1, **lengths).llm_prefill
        for b in budgets
    ]
    assert costs[budgets.index(budgets.largest)] == 1.0
    np.testing.assert_allclose(costs * max(flops), flops)
    assert costs[budgets.index(budgets.smallest)] == costs.min() < 0.9


@pytest.mark.parametrize(
    ("logits", "costs", "preference", "message"),
    [
        (np.zeros((2, 3)), [1.0, 1.0], 0.0, r"\(2, 3\)"),
        (np.full((2, 3), np.nan), np.ones(3), 0.0, "finite"),
        (np.zeros((2, 3)), np.ones(3), np.inf, "preference=inf"),
    ],
)
def test_nonsense_is_refused(logits, costs, preference, message):
    with pytest.raises(ValueError, match=message):
        choose(logits, costs, preference)
