"""References of a policy against brute force."""

import itertools

import numpy as np
import pytest

from visor_jax.evals.pages.policy_references import (
    line_at,
    random_accuracy,
    task_at,
    task_table,
)

COSTS = np.array([0.2, 0.5, 1.0, 0.5])


def test_the_line_is_the_best_mixture_of_two_budgets():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.random(4)
        for cost in (0.2, 0.35, 0.7, 1.0):
            best = values[cost + 1e-12 >= COSTS].max()
            for i, j in itertools.combinations(range(4), 2):
                low, high = sorted((COSTS[i], COSTS[j]))
                if low < high and low <= cost <= high:
                    share = (cost - COSTS[i]) / (COSTS[j] - COSTS[i])
                    best = max(best, (1 - share) * values[i] + share * values[j])
            assert line_at(cost, COSTS, values) == pytest.approx(best)


def test_task_names_buy_the_steepest_gains_first():
    """Against all mixtures of pairs of budgets on a fine grid."""
    rng = np.random.default_rng(1)
    table = rng.random((2, 3))
    costs = np.array([0.2, 0.6, 1.0])
    grid = np.linspace(0, 1, 41)
    points = []
    for row in table:
        mine = [
            ((1 - s) * costs[i] + s * costs[j], (1 - s) * row[i] + s * row[j])
            for i, j in itertools.combinations_with_replacement(range(3), 2)
            for s in grid
        ]
        points.append(np.array(mine))
    for cost in (0.3, 0.5, 0.8):
        pairs = itertools.product(*points)
        best = max(
            (a[1] + b[1]) / 2 for a, b in pairs if (a[0] + b[0]) / 2 <= cost + 1e-9
        )
        assert task_at(cost, costs, table) == pytest.approx(best, abs=5e-3)


def test_random_draws_have_the_choices_shares():
    tasks = np.repeat(np.arange(10), 4)
    rng = np.random.default_rng(2)
    chosen, table = rng.integers(0, 3, 40), rng.random((10, 3))
    found = random_accuracy(chosen, table, tasks)
    for group, mine in (("easy", range(4)), ("hard", range(4, 10))):
        # All pairs of who chose and whom it would have been drawn for.
        pairs = [table[t, k] for t in mine for k in chosen[np.isin(tasks, list(mine))]]
        assert found[group] == pytest.approx(np.mean(pairs))


def test_the_table_is_of_means():
    correct = np.array([[1, 0], [0, 0], [1, 1]], bool)
    table = task_table(correct, np.array([0, 0, 1]), 2)
    np.testing.assert_array_equal(table, [[0.5, 0.0], [1.0, 1.0]])
