"""Centred kernel alignment: the formula, its identities, and states of a network."""

import jax
import numpy as np
import pytest

from tests import tiny
from tests.analysis import numpy_layers, small_study
from tests.tolerances import REFERENCE
from visor_jax.analysis.cka import linear_cka
from visor_jax.analysis.figures.cka import similarity_of


def similarity(states, valid=None):
    states = [np.asarray(state, np.float32) for state in states]
    valid = np.ones(states[0].shape[:2], bool) if valid is None else valid
    return np.asarray(jax.jit(linear_cka)(states, valid))


def test_turned_and_scaled_states_are_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 40, 8)) + 3
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    found = similarity([x, -2.5 * x @ turn + 7, x**3])
    np.testing.assert_allclose(found[:, 0, 1], 1, atol=1e-5)
    np.testing.assert_allclose(np.diagonal(found, axis1=1, axis2=2), 1, atol=1e-5)
    assert (found[:, 0, 2] < 0.95).all()
    np.testing.assert_array_equal(found, np.swapaxes(found, 1, 2))
    expected = [numpy_layers.cka(each, each**3) for each in x]
    np.testing.assert_allclose(found[:, 0, 2], expected, **REFERENCE)


def test_independent_states_have_the_known_bias():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 1, 2000, 64))
    assert similarity([x, y])[0, 0, 1] == pytest.approx(0.031, abs=0.002)


def test_padding_does_not_count():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 1, 30, 6))
    wider = [
        np.concatenate([z, 9 * rng.normal(size=(1, 5, 6))], axis=1) for z in (x, y)
    ]
    valid = np.arange(35)[None] < 30
    found, expected = similarity(wider, valid), similarity([x, y])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isnan(similarity([x, y], np.zeros((1, 30), bool))).all()


def test_states_of_a_network_are_those_of_the_reference():
    study = small_study.study_of(tiny.NETWORKS["visor"])
    prompts, batch = small_study.prompts(study)
    found = similarity_of(study, prompts)
    network = study.network
    assert np.isnan(found[2]).all()
    for row in (0, 1):
        images = numpy_layers.run(
            network.params, network.config, batch, row, study.ways
        ).images
        expected = [[numpy_layers.cka(x, y) for y in images] for x in images]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)
    # Only the SELF layers 1 and 3 change the image.
    np.testing.assert_allclose(found[:2, 0, :2], 1, atol=1e-5)
    np.testing.assert_allclose(found[:2, 4, 4:], 1, atol=1e-5)
    assert found[0].min() < 0.99
