"""Pseudo-labels against the rule written out sample by sample."""

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from visor_jax.policy.labels import REFERENCES, adequate, cheapest_adequate

COSTS = np.array([0.2, 0.5, 0.5, 1.0])


def plain(row, costs, share, reference, means):
    """Returns the label of one sample, by looking at one budget after another."""
    full = max(range(len(costs)), key=lambda k: costs[k])
    wanted = row[full] if reference == "full" else max(row)
    good = [k for k in range(len(costs)) if row[k] >= share * wanted]
    return min(good, key=lambda k: (costs[k], -means[k], k))


@pytest.mark.parametrize(
    ("scores", "full", "best"),
    [
        ([1, 0, 1, 1], 0, 0),
        ([0, 0, 1, 1], 2, 2),
        ([0, 0, 0, 1], 3, 3),
        ([0, 0, 0, 0], 0, 0),
        # The full budget is wrong: nothing to keep up with, unless others count.
        ([0, 1, 0, 0], 0, 1),
        ([0.5, 0.891, 0.89, 0.9], 1, 1),
    ],
)
def test_the_cheapest_budget_that_reaches_99_percent(scores, full, best):
    scores = np.array([scores], float)
    assert cheapest_adequate(scores, COSTS).tolist() == [full]
    assert cheapest_adequate(scores, COSTS, reference="best").tolist() == [best]


@hypothesis.given(
    scores=arrays.arrays(
        np.float64, (6, 4), elements=st.sampled_from([0.0, 0.3, 0.985, 0.995, 1.0])
    ),
    share=st.sampled_from([0.5, 0.99, 1.0]),
    reference=st.sampled_from(REFERENCES),
)
def test_labels_follow_the_rule(scores, share, reference):
    labels = cheapest_adequate(scores, COSTS, share=share, reference=reference)
    means = scores.mean(axis=0)
    expected = [plain(row, COSTS, share, reference, means) for row in scores]
    assert labels.tolist() == expected


def test_of_equally_dear_budgets_the_better_one_on_average():
    scores = np.array([[0, 1, 1, 1], [0, 0, 1, 1]], float)
    assert cheapest_adequate(scores, COSTS).tolist() == [2, 2]


def test_the_full_budget_is_always_adequate():
    scores = np.random.default_rng(0).random((50, 4))
    assert adequate(scores, COSTS)[:, 3].all()


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (-np.ones((1, 4)), {}, "exponential"),
        (np.ones((1, 3)), {}, "one cost per budget"),
        (np.ones((1, 4)), {"share": 0.0}, "share=0.0"),
        (np.ones((1, 4)), {"reference": "mean"}, "reference='mean'"),
    ],
)
def test_nonsense_is_refused(scores, options, message):
    with pytest.raises(ValueError, match=message):
        adequate(scores, COSTS.tolist(), **options)
