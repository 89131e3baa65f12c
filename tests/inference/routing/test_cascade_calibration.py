"""Thresholds against brute force: every threshold that could be, example by example."""

import numpy as np
import pytest

from tests.tolerances import REORDERED
from visor_jax.inference.routing.cascade_calibration import (
    TwoLooks,
    cascade_curve,
    threshold_for_agreement,
    threshold_for_cost,
)

# Nothing lies between neighbours; certainty; nothing at all; equals.
_NEXT = float(np.nextafter(0.5, 1))
SPECIAL = [5e-324, 1e-300, 0.5, _NEXT, np.nextafter(1, 0), 1.0]


def looks(seed, *, certain=True):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    values = rng.choice([*SPECIAL[: None if certain else -1], *rng.uniform(size=4)], n)
    return TwoLooks(
        confidence=values,
        scores=rng.choice([0.0, 0.25, 1.0], (2, n)),
        agrees=rng.random(n) < 0.5,
        first_cost=rng.integers(1, 5, n).astype(float),
        again_cost=rng.integers(0, 9, n).astype(float),
    )


def applied(looks, threshold):
    """Returns (sent, accuracy, agreement, cost) of a threshold, one by one."""
    n, sent, right, same, cost = len(looks.confidence), 0, 0.0, 0, 0.0
    for i, confidence in enumerate(looks.confidence):
        again = confidence < threshold
        sent += again
        right += looks.scores[1 if again else 0, i]
        same += again or looks.agrees[i]
        cost += looks.first_cost[i] + (looks.again_cost[i] if again else 0)
    return sent, right / n, same / n, cost / n


def every_threshold(looks):
    """Returns thresholds that together tell whatever can be told: each confidence,
    what lies just above it, and the ends of the range."""
    found = {*looks.confidence, *np.nextafter(looks.confidence, 2), 1.0}
    return sorted(float(t) for t in found if 0 < t <= 1)


@pytest.mark.parametrize("seed", range(60))
def test_the_curve_is_that_of_every_threshold(seed):
    asked = looks(seed)
    curve = cascade_curve(asked)
    assert (np.diff(curve.thresholds) > 0).all()
    assert ((curve.thresholds > 0) & (curve.thresholds <= 1)).all()
    by_hand = [applied(asked, t) for t in curve.thresholds]
    assert curve.sent.tolist() == [row[0] for row in by_hand]
    for column, name in enumerate(("accuracy", "agreement", "cost"), 1):
        expected = [row[column] for row in by_hand]
        np.testing.assert_allclose(getattr(curve, name), expected, **REORDERED)
    # None is missing.
    known = {applied(asked, t)[0] for t in every_threshold(asked)}
    assert set(curve.sent.tolist()) == known


@pytest.mark.parametrize("seed", range(60))
def test_the_threshold_of_a_cost_sends_as_many_as_it_pays_for(seed):
    asked = looks(seed)
    tried = {t: applied(asked, t) for t in every_threshold(asked)}
    for wanted in (1.0, 2.5, 4.0, 6.0, 100.0):
        within = [row for row in tried.values() if row[3] <= wanted]
        if not within:
            with pytest.raises(ValueError, match="the first look alone costs"):
                threshold_for_cost(asked, wanted)
            continue
        found = applied(asked, threshold_for_cost(asked, wanted))
        assert found[3] <= wanted * (1 + 1e-9)
        assert found[0] == max(row[0] for row in within)


@pytest.mark.parametrize("seed", range(60))
def test_the_threshold_of_an_agreement_sends_no_more_than_it_takes(seed):
    asked = looks(seed)
    tried = {t: applied(asked, t) for t in every_threshold(asked)}
    for wanted in (0.0, 0.3, 0.5, 0.9, 1.0):
        enough = [row for row in tried.values() if row[2] >= wanted - 1e-9]
        if not enough:
            with pytest.raises(ValueError, match="is not to be had: at most"):
                threshold_for_agreement(asked, wanted)
            continue
        found = applied(asked, threshold_for_agreement(asked, wanted))
        assert found[2] >= wanted - 1e-9
        assert found[0] == min(row[0] for row in enough)


def test_cases_tell_something():
    """...or the tests above would say nothing."""
    sent = [len(cascade_curve(looks(seed)).sent) for seed in range(60)]
    assert max(sent) > 5
    assert min(sent) < 3
    rest = [
        len(looks(s).confidence) - cascade_curve(looks(s)).sent[-1] for s in range(60)
    ]
    assert 10 < sum(left > 0 for left in rest) < 50


def test_worked_numbers():
    asked = TwoLooks(
        confidence=np.array([0.9, 0.3, 1.0, 0.5]),
        scores=np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]]),
        agrees=np.array([True, False, True, False]),
        first_cost=np.full(4, 1.0),
        again_cost=np.full(4, 4.0),
    )
    curve = cascade_curve(asked)
    assert curve.thresholds.tolist() == [0.15, 0.4, 0.7, 0.95]
    assert curve.cost.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert curve.accuracy.tolist() == [0.5, 0.75, 1.0, 1.0]
    assert threshold_for_cost(asked, 3.0) == 0.7
    assert threshold_for_agreement(asked, 0.6) == 0.4


def test_measurements_that_do_not_go_together_are_refused():
    good = {
        "confidence": np.array([0.5, 1.0]),
        "scores": np.zeros((2, 2)),
        "agrees": np.zeros(2, bool),
        "first_cost": np.ones(2),
        "again_cost": np.ones(2),
    }
    for name, value, reason in (
        ("scores", np.zeros((2, 3)), "do not go with"),
        ("confidence", np.array([0.0, 1.0]), "above 0 and up to 1"),
        ("confidence", np.array([]), "0 confidences"),
        ("again_cost", np.array([-1.0, 1]), "not below 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            TwoLooks(**{**good, name: value})
    with pytest.raises(ValueError, match=r"agreement=2 must lie in 0\.\.1"):
        threshold_for_agreement(TwoLooks(**good), 2)
