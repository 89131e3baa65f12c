"""Losses against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.tolerances import REORDERED
from visor_jax.training.objectives.losses import (
    Summed,
    accuracy,
    cross_entropy,
    distillation,
    reading_loss,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 5, 7)).astype(np.float32)
TEACHER = RNG.normal(size=(2, 5, 7)).astype(np.float32)
TARGETS = RNG.integers(0, 7, (2, 5)).astype(np.int32)
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0]], bool)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_cross_entropy_sums_over_the_masked_places_only():
    expected = [
        -log_softmax(LOGITS[b, t])[TARGETS[b, t]]
        for b, t in zip(*np.nonzero(MASK), strict=True)
    ]
    got = cross_entropy(*map(jnp.asarray, (LOGITS, TARGETS, MASK)))
    np.testing.assert_allclose(got.total, np.sum(expected), **REORDERED)
    assert got.count == 4
    np.testing.assert_allclose(got.mean, np.mean(expected), **REORDERED)


def test_mean_is_global_sum_over_global_count():
    # One row has three places, the other one: means of rows must not be averaged.
    rows = [
        cross_entropy(*(jnp.asarray(x[i : i + 1]) for x in (LOGITS, TARGETS, MASK)))
        for i in range(2)
    ]
    both = cross_entropy(*map(jnp.asarray, (LOGITS, TARGETS, MASK)))
    joined = Summed(rows[0].total + rows[1].total, rows[0].count + rows[1].count)
    np.testing.assert_allclose(both.mean, joined.mean, **REORDERED)
    assert abs(both.mean - (rows[0].mean + rows[1].mean) / 2) > 1e-3


def test_nothing_to_score_gives_zero_not_nan():
    empty = cross_entropy(*map(jnp.asarray, (LOGITS, TARGETS, np.zeros_like(MASK))))
    assert empty.mean == 0


def test_accuracy_counts_hits():
    hits = (LOGITS.argmax(-1) == TARGETS) & MASK
    got = accuracy(*map(jnp.asarray, (LOGITS, TARGETS, MASK)))
    assert (got.total, got.count) == (hits.sum(), 4)


def test_distillation_is_kl_and_gives_the_teacher_no_gradient():
    p, q = log_softmax(TEACHER), log_softmax(LOGITS)
    expected = ((np.exp(p) * (p - q)).sum(-1) * MASK).sum()
    got = distillation(*map(jnp.asarray, (LOGITS, TEACHER, MASK)))
    np.testing.assert_allclose(got.total, expected, **REORDERED)
    gradient = jax.grad(
        lambda t: distillation(jnp.asarray(LOGITS), t, jnp.asarray(MASK)).total
    )(jnp.asarray(TEACHER))
    assert not np.asarray(gradient).any()


def test_reading_loss_counts_layers_that_are_on_and_labelled_tokens():
    labels = np.array([[3, -1, 0, -1, 2]] * 2, np.int32)
    logits = {1: jnp.asarray(LOGITS), 3: jnp.asarray(TEACHER)}
    on = {1: jnp.asarray(True), 3: jnp.asarray(False)}
    places = list(zip(*np.nonzero(labels >= 0), strict=True))
    expected = [-log_softmax(LOGITS[b, t])[labels[b, t]] for b, t in places]
    got = reading_loss(logits, jnp.asarray(labels), on)
    np.testing.assert_allclose(got.mean, np.mean(expected), **REORDERED)
    off = reading_loss(logits, jnp.asarray(labels), {k: jnp.asarray(False) for k in on})
    assert (off.total, off.count, off.mean) == (0, 0, 0)
