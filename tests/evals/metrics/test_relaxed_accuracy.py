"""Relaxed accuracy: what lmms-eval 0.7.3 computes for ChartQA."""

import pytest

from visor_jax.evals.metrics.relaxed_accuracy import is_other_year, relaxed_accuracy


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("95", "100", 1),
        ("94.9", "100", 0),
        ("0.3", "30%", 1),
        ("30", "30%", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("1,000", "1000", 0),
        ("2021", "2020", 1),
        ("-95", "-100", 1),
        ("Yes.", "yes", 0),
        (" Yes\n", "yes", 1),
        ("1e2", "100", 1),
        ("%", "%", 1),
        # As a product, .05 times 14.1, the tolerance would let it through.
        ("14.805", "14.1", 0),
    ],
)
def test_scores_as_the_published_harness(answer, reference, score):
    assert relaxed_accuracy(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "other"),
    [
        ("2021", "2020", True),
        ("2020", "2020", False),
        ("2020.0", "2020", False),
        ("2200", "2100", False),
        ("1900", "2100", False),
        ("95", "100", False),
        ("in 2021", "2020", False),
    ],
)
def test_other_years_that_count_as_right(answer, reference, other):
    assert is_other_year(answer, reference) is other
