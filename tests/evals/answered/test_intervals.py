"""Intervals of figures: vectors, degenerate answers, what has no width.

How often they hold the truth: `test_coverage`.
"""

import dataclasses
import math

import numpy as np
import pytest

from visor_jax.evals.answered.figure import Answered, mean, mean_of_means
from visor_jax.evals.answered.intervals import BOOTSTRAP, WILSON, measure
from visor_jax.evals.tables.question import Question


def answers(scores, groups=None, categories=None):
    """Returns answers of these scores, each in a group of its own unless told."""
    found = []
    for number, score in enumerate(scores):
        question = Question(
            id=f"q{number:05}",
            prompt="?",
            references=("x",),
            group=str(groups[number]) if groups is not None else "",
            category=categories[number] if categories is not None else "",
        )
        found.append(
            Answered(question=question, answer="x", parsed="x", score=float(score))
        )
    return found


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (95, 100, 0.888, 0.978)],
)
def test_right_and_wrong_have_wilsons_interval(right, n, low, high):
    (found,) = measure([mean("m")], answers([1] * right + [0] * (n - right)))
    assert (found.interval, found.n, found.value) == (WILSON, n, right / n)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)


def test_equal_scores_have_no_width():
    (found,) = measure([mean("m")], answers([0.3] * 9))
    assert found.interval == BOOTSTRAP
    assert found.value == pytest.approx(0.3)
    assert found.high - found.low < 1e-12


@pytest.mark.parametrize("scores", [[0.0, 1.0, 1.0, 0.0, 1.0] * 6, [0.3, 0.9] * 15])
def test_a_question_repeated_in_its_group_narrows_nothing(scores):
    once = answers(scores, groups=range(30))
    again = [
        dataclasses.replace(
            each, question=dataclasses.replace(each.question, id=f"{each.question.id}b")
        )
        for each in once
    ]
    (first,), (second,) = (measure([mean("m")], a) for a in (once, once + again))
    assert second.value == pytest.approx(first.value)
    assert second.high - second.low >= (first.high - first.low) * (1 - 1e-9)


def test_order_changes_no_digit():
    rng = np.random.default_rng(0)
    given = answers(rng.random(40), groups=rng.integers(0, 9, 40))
    figures = [mean("m")]
    once = measure(figures, given)
    assert measure(figures, [given[i] for i in rng.permutation(40)]) == once
    assert measure(figures, given, seed=1) != once


def test_what_cannot_be_scored_does_not_count():
    (found,) = measure([mean("m")], answers([1, math.nan, 0, 1]))
    assert (found.n, found.value) == (3, pytest.approx(2 / 3))
    (empty,) = measure([mean("m")], answers([math.nan]))
    assert (empty.n, math.isnan(empty.value), math.isnan(empty.low)) == (0, True, True)
    with pytest.raises(ValueError, match="no answers"):
        measure([mean("m")], [])


def test_mean_of_means_weighs_categories_alike():
    given = answers([1, 1, 1, 0], categories=["a", "a", "a", "b"])
    (found,) = measure([mean_of_means("m", ["a", "b", "c"])], given)
    assert found.value == 0.5
