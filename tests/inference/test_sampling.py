import jax
import numpy as np
import pytest

from tests import tolerances
from tests.parity import sampling_reference
from visor_jax.inference.sampling import (
    GREEDY,
    Sampling,
    filtered,
    penalised,
    sample_token,
)

LOGITS = np.random.default_rng(0).normal(scale=2, size=(6, 40)).astype(np.float32)


def _oracle(logits, *, temperature, top_k=None, top_p=None):
    """The filters row by row, in the order and with the ties of `transformers`."""
    result = []
    for row in logits.astype(np.float64) / temperature:
        row = row.copy()
        if top_k is not None:
            row[row < np.sort(row)[-min(top_k, len(row))]] = -np.inf
        if top_p is not None and top_p < 1:
            order = np.argsort(row, kind="stable")
            weights = np.exp(row - row.max())
            summed = np.cumsum(weights[order] / weights.sum())
            cut = order[:-1][summed[:-1] <= 1 - top_p]
            row[cut] = -np.inf
        result.append(row)
    return np.stack(result)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 1.7, "top_k": 5},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 400},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 2.5, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.7, "top_k": 8, "top_p": 0.5},
        {"temperature": 3.0, "top_k": 3, "top_p": 0.99},
    ],
)
def test_filters_equal_the_oracle(settings):
    found = filtered(jax.numpy.asarray(LOGITS), Sampling(**settings))
    expected = _oracle(LOGITS, **settings)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)


def processed(settings):
    """Returns our logits for the tokens and logits of `sampling_reference`."""
    tokens, logits = sampling_reference.inputs()
    sampling = Sampling(**settings)
    logits = jax.numpy.asarray(logits)
    if sampling.needs_used:
        used = np.stack([np.isin(np.arange(logits.shape[1]), row) for row in tokens])
        logits = penalised(logits, jax.numpy.asarray(used), sampling.repetition_penalty)
    return np.asarray(logits if sampling.is_greedy else filtered(logits, sampling))


def test_logits_are_processed_as_transformers_did():
    with np.load(sampling_reference.GOLDEN) as copies:
        expected = [copies[name] for name in copies.files]
    pairs = zip(sampling_reference.SETTINGS, expected, strict=True)
    for settings, logits in pairs:
        found = processed(settings)
        np.testing.assert_array_equal(np.isinf(found), np.isinf(logits))
        np.testing.assert_allclose(found, logits, **tolerances.PARITY)


def test_the_penalty_comes_before_the_temperature_and_when_greedy():
    logits = jax.numpy.array([[2.0, 1.9, -1.0]])
    used = jax.numpy.array([[True, False, False]])
    greedy = Sampling(repetition_penalty=1.5)
    assert sample_token(logits, greedy, used=used).tolist() == [1]
    assert sample_token(logits, GREEDY).tolist() == [0]
    cold = Sampling(temperature=1e-3, repetition_penalty=1.5)
    keys = jax.random.split(jax.random.key(0), 1)
    assert sample_token(logits, cold, keys, used).tolist() == [1]


def test_top_p_is_the_drawn_example():
    logits = jax.numpy.log(jax.numpy.array([[0.5, 0.1, 0.15, 0.25]]))
    kept = filtered(logits, Sampling(temperature=1.0, top_p=0.7))
    assert np.isfinite(kept).tolist() == [[True, False, False, True]]


def test_ties_at_the_edge_of_top_k_stay():
    logits = jax.numpy.array([[3.0, 1.0, 1.0, 0.0]])
    kept = filtered(logits, Sampling(temperature=1.0, top_k=2))
    assert np.isfinite(kept).tolist() == [[True, True, True, False]]


def test_greedy_takes_the_likeliest():
    found = sample_token(jax.numpy.asarray(LOGITS), GREEDY)
    np.testing.assert_array_equal(found, LOGITS.argmax(axis=1))


def test_draws_follow_the_filtered_distribution():
    rows = 20000
    logits = jax.numpy.broadcast_to(LOGITS[0, :8], (rows, 8))
    settings = {"temperature": 1.5, "top_k": 6, "top_p": 0.95}
    keys = jax.random.split(jax.random.key(1), rows)
    drawn = np.asarray(sample_token(logits, Sampling(**settings), keys))
    weights = np.exp(_oracle(LOGITS[:1, :8], **settings)[0])
    expected = weights / weights.sum()
    found = np.bincount(drawn, minlength=8) / rows
    assert not found[expected == 0].any()
    # Five standard deviations.
    bound = 5 * np.sqrt(expected * (1 - expected) / rows)
    assert (np.abs(found - expected) <= bound).all()


def test_a_draw_does_not_depend_on_other_rows():
    logits, sampling = jax.numpy.asarray(LOGITS), Sampling(temperature=2.0, top_p=0.9)
    keys = jax.random.split(jax.random.key(2), len(LOGITS))
    together = sample_token(logits, sampling, keys)
    alone = [
        sample_token(logits[i : i + 1], sampling, keys[i : i + 1])[0] for i in range(6)
    ]
    assert together.tolist() == [int(x) for x in alone]
    again = sample_token(logits, sampling, keys)
    assert together.tolist() == again.tolist()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1"),
        ({"top_k": 5}, "need a temperature above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"also_used": (3, -1)}, r"also_used=\(3, -1\)"),
        ({"temperature": 1.0, "top_k": -1, "top_p": 2.0}, "top_k=-1.*top_p=2.0"),
    ],
)
def test_impossible_settings_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Sampling(**settings)
