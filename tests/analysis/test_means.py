"""Means by kind and their intervals, against closed formulas."""

import numpy as np
import pytest

from visor_jax.analysis.means import (
    kinds_of,
    mean_with_interval,
    means_by_kind,
    score_with_interval,
    scores_by_kind,
)
from visor_jax.evals.benchmark import Example


def examples_of(*pairs):
    return [
        Example(id=f"{n}", task=task, cluster=cluster, request=None, references=("",))
        for n, (task, cluster) in enumerate(pairs)
    ]


def test_of_single_questions_it_is_the_textbook_interval():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    mean, low, high = mean_with_interval(values, np.arange(4))
    error = values.std(ddof=1) / 2
    assert mean == 4
    assert high - mean == pytest.approx(1.959964 * error, rel=1e-5)
    assert mean - low == pytest.approx(high - mean)


def test_a_repeated_question_narrows_nothing_and_no_number_does_not_count():
    values, clusters = np.array([1.0, 2.0, 4.0]), np.arange(3)
    once = mean_with_interval(values, clusters)
    twice = mean_with_interval(np.repeat(values, 2), np.repeat(clusters, 2))
    assert twice == pytest.approx(once)
    lacking = mean_with_interval(np.append(values, np.nan), np.arange(4))
    assert lacking == pytest.approx(once)
    independent = mean_with_interval(np.repeat(values, 2), np.arange(6))
    assert independent[2] < once[2]


def test_scores_have_wilsons_interval_which_does_not_leave_them():
    scores, clusters = np.repeat([1.0, 0.0], [8, 2]), np.arange(10)
    value, low, high = score_with_interval(scores, clusters)
    # C / (C - 1) of ten clusters is as if there were nine.
    assert value == 0.8
    z2, n = 1.959964**2, 9
    middle = (0.8 + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2) / (1 + z2 / n) * np.sqrt(0.16 / n + z2 / (4 * n * n))
    assert (low, high) == pytest.approx((middle - half, middle + half), rel=1e-5)
    assert score_with_interval(np.ones(20), np.arange(20))[2] == 1
    examples = examples_of(("a", "x"), ("b", "y"))
    found = scores_by_kind(np.array([[1.0, np.nan], [1, np.nan]]), examples, {})
    assert found["all"]["mean"] == [1.0, None]
    assert found["all"]["high"] == [1.0, None]


def test_nothing_and_a_single_picture():
    assert np.isnan(mean_with_interval(np.array([np.nan]), np.zeros(1))).all()
    mean, low, high = mean_with_interval(np.array([1.0, 3.0]), np.zeros(2))
    assert mean == 2
    assert np.isnan([low, high]).all()


def test_kinds_are_all_groups_and_tasks():
    examples = examples_of(("a", "x"), ("b", "x"), ("c", "y"), ("a", "y"))
    groups = {"easy": ("a", "b"), "hard": ("d",)}
    kinds = {name: mask.tolist() for name, mask in kinds_of(examples, groups).items()}
    assert list(kinds) == ["all", "easy", "a", "b", "c"]
    assert kinds["easy"] == [True, True, False, True]
    values = np.array([[1.0, 0], [2, 0], [4, np.nan], [3, 1]])
    found = means_by_kind(values, examples, groups)
    assert found["easy"]["mean"] == [2.0, pytest.approx(1 / 3)]
    assert found["c"] == {
        **{"mean": [4.0, None], "low": [None, None], "high": [None, None]},
        "questions": 1,
    }
