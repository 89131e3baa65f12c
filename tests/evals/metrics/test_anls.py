"""ANLS: what lmms-eval 0.7.3 computes, and edit distances by their definition."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visor_jax.evals.metrics.anls import anls, levenshtein


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("5 March 2020", ["March 5, 2020", "5 march 2020"], 1.0),
        ("abcd", ["abce"], 0.75),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("$ 1,200", ["$1,200"], 6 / 7),
        ("42.", ["42"], 2 / 3),
        ("abxd", ["abcd     "], 8 / 9),
        ("five", ["5"], 0.0),
        # In capitals they are five long.
        ("maß!", ["maßq"], 0.8),
        ("", ["n/a"], 0.0),
        ("", [""], 1.0),
        ("anything", [], 0.0),
    ],
)
def test_scores_as_the_published_harness(answer, references, score):
    assert anls(answer, references) == pytest.approx(score, abs=1e-12)


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6))
def test_distance_is_that_of_the_recursive_definition(one, other):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (one[i - 1] != other[j - 1]),
        )

    assert levenshtein(one, other) == distance(len(one), len(other))
