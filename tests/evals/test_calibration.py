"""Calibration against counts done by hand."""

import numpy as np
import pytest

from visor_jax.evals.calibration import (
    calibration,
    calibration_bins,
    expected_calibration_error,
)

COSTS = np.array([0.2, 0.5, 1.0])


def test_bins_and_error_by_hand():
    predicted = np.array([0.05, 0.15, 0.95, 0.9, 1.0])
    observed = np.array([False, True, True, True, False])
    bins = calibration_bins(predicted, observed, bins=10)
    assert [(b.low, b.count) for b in bins] == [(0.0, 1), (0.1, 1), (0.9, 3)]
    np.testing.assert_allclose(bins[2].predicted, 0.95)
    np.testing.assert_allclose(bins[2].observed, 2 / 3)
    expected = (0.05 + 0.85 + 3 * (0.95 - 2 / 3)) / 5
    np.testing.assert_allclose(expected_calibration_error(bins), expected)


def test_a_calibrated_forecaster_has_a_small_error():
    rng = np.random.default_rng(0)
    predicted = rng.random(20_000)
    honest = rng.random(20_000) < predicted
    assert expected_calibration_error(calibration_bins(predicted, honest)) < 0.02
    boasting = rng.random(20_000) < predicted**2
    assert expected_calibration_error(calibration_bins(predicted, boasting)) > 0.1


def test_what_is_observed_is_whether_the_chosen_budget_is_enough():
    correct = np.array([[0, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
    chosen = np.array([0, 1, 0, 2])
    predicted = np.array([0.25, 0.75, 0.5, 1.0])
    found = calibration(predicted, chosen, correct, COSTS, ("a", "b", "c"))
    assert found["samples"] == 4
    # Where the full budget is wrong, the cheapest is enough, though not right.
    assert found["per_budget"]["a"] == {
        "count": 2,
        "predicted": 0.375,
        "adequate": 0.5,
        "correct": 0.0,
    }
    assert found["adequate"] == 0.75
    unchosen = calibration(predicted, np.zeros(4, int), correct, COSTS, ("a", "b", "c"))
    assert list(unchosen["per_budget"]) == ["a"]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        calibration_bins(np.array([1.5]), np.array([True]))
    with pytest.raises(ValueError, match="0 predictions"):
        calibration_bins(np.zeros(0), np.zeros(0, bool))
