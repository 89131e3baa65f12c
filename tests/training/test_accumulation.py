"""Gradients in parts against the closed formula of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import GRADIENT
from visor_jax.training.accumulation import Term, gradient
from visor_jax.training.objectives.losses import Summed

# Eight samples of four places; how many count is very uneven.
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(8, 4, 3)).astype(np.float32)
TARGETS = RNG.normal(size=(8, 4)).astype(np.float32)
COUNTED = np.arange(4) < np.array([1, 4, 1, 4, 1, 4, 1, 4])[:, None]
RARE = np.zeros((8, 4), bool)
RARE[5, 2] = True
BATCH = (INPUTS, TARGETS, COUNTED, RARE)
WEIGHTS = np.array([0.3, -1.0, 2.0], np.float32)


def terms(params, batch):
    """Squared errors of a linear model, and absolute values of rare places."""
    inputs, targets, counted, rare = batch
    found = inputs @ params
    squared = Summed(jnp.sum((found - targets) ** 2 * counted), counted.sum() * 1.0)
    absolute = Summed(jnp.sum(jnp.abs(found) * rare), rare.sum() * 1.0)
    return [Term(squared), Term(absolute, weight=0.5)], {"squared": squared}


def expected() -> np.ndarray:
    found = INPUTS @ WEIGHTS
    error = 2 * (found - TARGETS) * COUNTED
    squared = np.einsum("bt,btd->d", error, INPUTS) / COUNTED.sum()
    return squared + 0.5 * np.sign(found[5, 2]) * INPUTS[5, 2]


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_make_no_difference(parts):
    compute = jax.jit(functools.partial(gradient, terms, parts=parts))
    found, report = compute(WEIGHTS, BATCH)
    np.testing.assert_allclose(found, expected(), **GRADIENT)
    assert float(report["squared"].count) == COUNTED.sum()


def test_the_mean_of_the_parts_means_would_be_something_else():
    halves = [jax.tree.map(lambda x, i=i: x[i::2], BATCH) for i in range(2)]
    means = sum(gradient(terms, WEIGHTS, half)[0] for half in halves) / 2
    assert np.abs(means - expected()).max() > 0.1


def test_samples_must_split():
    with pytest.raises(ValueError, match="8 samples do not split into parts=3"):
        gradient(terms, WEIGHTS, BATCH, parts=3)


def test_counting_makes_no_forward_pass():
    compute = jax.jit(functools.partial(gradient, terms, parts=2))
    text = compute.lower(WEIGHTS, BATCH).compile().as_text()
    whole = jax.jit(functools.partial(gradient, terms)).lower(WEIGHTS, BATCH)
    assert text.count(" dot(") == whole.compile().as_text().count(" dot(") > 0
