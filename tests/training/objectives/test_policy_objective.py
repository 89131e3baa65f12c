"""Objectives of policy training: which make sense, and which tell probabilities."""

import pytest

from visor_jax.policy.adequacy import Adequacy, Uncalibrated
from visor_jax.training.objectives.policy_objective import (
    OBJECTIVES,
    SCORES,
    PolicyObjective,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "guess"}, "kind='guess'"),
        ({"score": "f1"}, "score='f1'"),
        (
            {"kind": "straight_through_blended", "score": "correct"},
            "needs a loss with a gradient",
        ),
        ({"cost_weight": -1.0}, "cost_weight=-1.0"),
        ({"temperature": (1.0, 0.0)}, "temperature"),
        ({"share": 2.0}, "share=2.0"),
    ],
)
def test_impossible_objectives_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PolicyObjective(**settings)


def test_only_what_is_a_probability_is_calibrated():
    calibrated = {}
    for kind in OBJECTIVES:
        for score in SCORES:
            if (kind, score) == ("straight_through_blended", "correct"):
                continue
            for weight in (0.0, 0.02):
                found = PolicyObjective(kind=kind, score=score, entropy_weight=weight)
                calibrated[kind, score, weight] = found.adequacy
    for (kind, score, weight), found in calibrated.items():
        if kind == "pseudo_labels":
            assert found == Adequacy()
        elif kind == "straight_through_blended" or not weight or "log" in score:
            assert isinstance(found, Uncalibrated)
        else:
            assert found == Adequacy(cost_weight=0.05, entropy_weight=0.02)
    reasons = {f.reason for f in calibrated.values() if isinstance(f, Uncalibrated)}
    assert len(reasons) == 3
