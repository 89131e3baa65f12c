"""Paired comparisons: vectors, what pairing gains. Coverage: `test_coverage`."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from tests.evals.answered.test_intervals import answers
from visor_jax.evals.answered.figure import mean
from visor_jax.evals.answered.paired import compare, holm, mcnemar


@pytest.mark.parametrize(
    ("b", "c", "p_value"),
    [(1, 9, 0.0215), (5, 5, 1.0), (0, 6, 0.03125), (0, 0, 1.0), (9, 1, 0.0215)],
)
def test_mcnemar_is_exact(b, c, p_value):
    assert round(mcnemar(b, c), 5) == pytest.approx(p_value, abs=5e-5)
    n, least = b + c, min(b, c)
    summed = 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, summed), rel=1e-12)


def test_holm_by_its_definition():
    for p_values in itertools.permutations([0.01, 0.04, 0.03, 0.2]):
        found = dict(zip(p_values, holm(p_values), strict=True))
        # 4 x .01, 3 x .03, then never less than before: 2 x .04 is.
        expected = {0.01: 0.04, 0.03: 0.09, 0.04: 0.09, 0.2: 0.2}
        assert found == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_what_is_common_and_what_flipped():
    first, second = answers([1, 1, 0, 0, 1]), answers([1, 0, 1, 1, 1, 0])
    found = compare(first, second, [mean("m")], draws=200)
    assert (found.common, found.only_first, found.only_second) == (5, 0, 1)
    assert (found.lost, found.won, found.p_value) == (1, 2, 1.0)
    flipped = [one.question.id for one, _ in found.flipped]
    assert flipped == ["q00001", "q00002", "q00003"]
    (difference,) = found.differences
    assert difference.value == pytest.approx(4 / 5 - 3 / 5)
    assert found.visible == pytest.approx(2.8 * math.sqrt(3 / 5 / 5))
    again = compare(first[::-1], second[::-1], [mean("m")], draws=200)
    assert again.differences == found.differences


def test_equal_scores_differ_by_nothing_whatever_is_drawn():
    given = answers(np.random.default_rng(0).random(30))
    (found,) = compare(given, given, [mean("m")], draws=500).differences
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    # All of them by as much: pairing leaves nothing to chance.
    better = [dataclasses.replace(each, score=each.score + 0.25) for each in given]
    compared = compare(given, better, [mean("m")], draws=500)
    (found,) = compared.differences
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)
    assert (compared.lost, compared.p_value, compared.visible) == (None, None, None)


def test_other_questions_of_the_same_ids_are_refused():
    first, second = answers([1, 0]), answers([1, 0], categories=["a", "b"])
    with pytest.raises(ValueError, match="'q00000' is not the same in both"):
        compare(first, second, [mean("m")])
    with pytest.raises(ValueError, match="no question in common"):
        compare(first[:1], first[1:], [mean("m")])
