"""How often 95 % intervals hold the truth, on 1,000 simulated sets of grouped answers.

Groups are drawn, of one to three questions each, which share most of what makes their
answers right or wrong; the mean over all there could be is known. Intervals that count
every question for itself are the control: they hold it too seldom.

Every set is a figure of its own over the same questions, so that one call measures all.
"""

import dataclasses

import numpy as np
import pytest

from tests.evals.answered.test_intervals import answers
from visor_jax.evals.answered.figure import mean
from visor_jax.evals.answered.intervals import BOOTSTRAP, WILSON, measure
from visor_jax.evals.answered.paired import compare

SETS, GROUPS, DRAWS = 1000, 99, 2000
SIZES = np.tile([1, 2, 3], GROUPS // 3)
COUNT = int(SIZES.sum())
LEAST, MOST = 0.93, 0.97
GROUP_OF = np.arange(GROUPS).repeat(SIZES)


def right_or_wrong(rng):
    """Returns noughts and ones; right with a chance of 0.6 in all."""
    chance = rng.beta(0.9, 0.6, (SETS, GROUPS)).repeat(SIZES, axis=1)
    return (rng.random((SETS, COUNT)) < chance).astype(float)


def graded(rng, middle=0.5):
    """Returns scores about the middle, of which a group shares most."""
    shared = rng.gamma(4, 0.05, (SETS, GROUPS)).repeat(SIZES, axis=1) - 0.2
    return shared + rng.normal(middle, 0.05, (SETS, COUNT))


def figures(*scores):
    """Returns the mean of each set; answers say by their score which scores."""

    def figure(which):
        def score(answered):
            return scores[int(answered.score)][which, int(answered.question.id[1:])]

        def of_group(group):
            return {"sum": sum(map(score, group)), "count": len(group)}

        return dataclasses.replace(mean(f"set {which}"), of_group=of_group, score=score)

    return [figure(which) for which in range(SETS)]


def share_that_holds(found, truth):
    return np.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.parametrize(
    ("draw", "truth", "interval"),
    [(right_or_wrong, 0.6, WILSON), (graded, 0.5, BOOTSTRAP)],
)
def test_intervals_of_a_figure_hold_it_as_often_as_they_say(draw, truth, interval):
    of_sets = figures(draw(np.random.default_rng(1)))
    asked = np.zeros(COUNT)
    in_groups, each_for_itself = (
        measure(of_sets, answers(asked, groups), draws=DRAWS)
        for groups in (GROUP_OF, None)
    )
    assert {each.interval for each in in_groups} == {interval}
    assert LEAST <= share_that_holds(in_groups, truth) <= MOST
    assert share_that_holds(each_for_itself, truth) < LEAST


def test_intervals_of_a_difference_hold_it_as_often_as_they_say():
    rng = np.random.default_rng(2)
    first = graded(rng)
    # Better by a tenth on average, and not by as much in every group.
    gain = rng.normal(0.1, 0.1, (SETS, GROUPS)).repeat(SIZES, axis=1)
    of_sets = figures(first, first + gain + rng.normal(0, 0.05, first.shape))
    in_groups, each_for_itself = (
        compare(
            *(answers(np.full(COUNT, side), groups) for side in (0, 1)),
            of_sets,
            draws=DRAWS,
        ).differences
        for groups in (GROUP_OF, None)
    )
    assert LEAST <= share_that_holds(in_groups, 0.1) <= MOST
    assert share_that_holds(each_for_itself, 0.1) < LEAST
