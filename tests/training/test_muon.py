"""Muon for matrices of layers, against singular values, optax and NumPy."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optax.contrib import _muon

from tests.tolerances import REORDERED
from visor_jax.training.muon import muon_and, orthogonalized
from visor_jax.training.optimizer import OptimizerSettings, make_optimizer

BETA = 0.95
RNG = np.random.default_rng(0)
SHAPES = {
    "tower/layers_0/mlp/fc1/kernel": (6, 12),
    "tower/layers_1/mlp/fc1/kernel": (6, 12),
    "decoder/layers_0/down/kernel": (12, 6),
    "decoder/layers_0/o_proj/kernel": (8, 8),
    "decoder/layers_0/norm/scale": (8,),
    "decoder/layers_0/o_proj/bias": (8,),
    "decoder/layers_0/position_conv": (7, 8),
    "lm_head/kernel": (8, 5),
    "projector/convolution_kernel": (3, 3, 8, 8),
    "embedding": (5, 8),
}
MATRICES = [path for path in SHAPES if "layers_" in path and path.endswith("kernel")]
FLAT = {path: RNG.standard_normal(s).astype(np.float32) for path, s in SHAPES.items()}


def tree(flat):
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def flat_of(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def gradients(step):
    return {path: np.sin((step + 1) * x) for path, x in FLAT.items()}


def newton_schulz(x):
    """Returns what optax makes of one matrix."""
    coefficients = jnp.array(_muon._DEFAULT_NS_COEFFS)
    one = _muon.MuonDimensionNumbers(0, 1)
    return _muon.orthogonalize_via_newton_schulz(
        jnp.asarray(x), coefficients, 5, "frobenius", 1e-8, one
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_singular_values_come_near_one_and_vectors_stay(rows, columns, seed):
    draw = np.random.default_rng(seed).standard_normal
    left, _ = np.linalg.qr(draw((rows, rows)))
    right, _ = np.linalg.qr(draw((columns, columns)))
    count = min(rows, columns)
    values = np.random.default_rng(seed).uniform(0.1, 1.0, count)
    x = (left[:, :count] * values) @ right[:count]
    found = np.asarray(orthogonalized(jnp.asarray(x[None], jnp.float32)))[0]
    of_vectors = left[:, :count].T @ found @ right[:count].T
    assert (np.diag(of_vectors) > 0.6).all()
    assert (np.diag(of_vectors) < 1.3).all()
    np.testing.assert_allclose(of_vectors - np.diag(np.diag(of_vectors)), 0, atol=1e-4)


def test_three_steps_are_momentum_and_optax_newton_schulz():
    muon = muon_and(optax.scale_by_adam(b1=0.8))
    state, update = muon.init(tree(FLAT)), jax.jit(muon.update)
    momentum = {path: np.zeros(SHAPES[path], np.float32) for path in MATRICES}
    alone = optax.scale_by_adam(b1=0.8)
    others = {path: x for path, x in FLAT.items() if path not in MATRICES}
    alone_state = alone.init(others)
    for step in range(3):
        g = gradients(step)
        updates, state = update(tree(g), state)
        found = flat_of(updates)
        assert set(found) == set(FLAT)
        for path in MATRICES:
            momentum[path] = BETA * momentum[path] + (1 - BETA) * g[path]
            ahead = BETA * momentum[path] + (1 - BETA) * g[path]
            expected = 0.2 * max(ahead.shape) ** 0.5 * newton_schulz(ahead)
            np.testing.assert_allclose(found[path], expected, **REORDERED)
        expected, alone_state = alone.update({k: g[k] for k in others}, alone_state)
        for path in others:
            np.testing.assert_allclose(found[path], expected[path], **REORDERED)


def test_an_update_is_as_large_as_one_of_adam():
    """Root mean square 0.2 of every shape, which is why both share learning rates."""
    muon = muon_and(optax.scale_by_adam())
    updates, _ = muon.update(tree(gradients(0)), muon.init(tree(FLAT)))
    for path in MATRICES:
        size = float(jnp.sqrt(jnp.mean(flat_of(updates)[path] ** 2)))
        assert size == pytest.approx(0.2, rel=0.3)


def test_stacked_layers_move_as_each_does_alone():
    kernels = RNG.standard_normal((3, 6, 12)).astype(np.float32)
    muon = muon_and(optax.scale_by_adam())
    apart = {f"layers_{i}/up/kernel": x for i, x in enumerate(kernels)}
    stacked = {"layers_0/up/kernel": kernels}
    found, _ = muon.update(tree(apart), muon.init(tree(apart)))
    together, _ = muon.update(tree(stacked), muon.init(tree(stacked)))
    for i, each in enumerate(flat_of(together)["layers_0/up/kernel"]):
        of_layer = flat_of(found)[f"layers_{i}/up/kernel"]
        np.testing.assert_allclose(each, of_layer, **REORDERED)


def test_one_moment_is_kept_of_matrices():
    muon = make_optimizer(OptimizerSettings(learning_rate=1e-3, matrices="muon"), 10)
    adam = make_optimizer(OptimizerSettings(learning_rate=1e-3), 10)

    def kept(optimizer):
        return sum(x.size for x in jax.tree.leaves(optimizer.init(tree(FLAT))))

    assert kept(adam) - kept(muon) == sum(FLAT[path].size for path in MATRICES)


def test_decay_and_learning_rate_are_those_of_all_parameters():
    """A step without a gradient but for its decay: weights shrink by rate * decay."""
    settings = OptimizerSettings(
        learning_rate=0.5, weight_decay=0.1, constant_until=1.0, matrices="muon"
    )
    optimizer = make_optimizer(settings, 10)
    params, still = tree(FLAT), jax.tree.map(jnp.zeros_like, tree(FLAT))
    state = optimizer.init(params)
    # The first step of a warm-up has rate 0.
    _, state = optimizer.update(still, state, params)
    updates, _ = optimizer.update(still, state, params)
    for path, x in flat_of(updates).items():
        np.testing.assert_allclose(x, -0.5 * 0.1 * FLAT[path], **REORDERED)


def test_what_has_no_matrices_is_said():
    optimizer = make_optimizer(OptimizerSettings(learning_rate=1.0, matrices="muon"), 9)
    with pytest.raises(ValueError, match=r"optimizer\.matrices='muon': none of the"):
        optimizer.init({"head": {"kernel": jnp.ones((2, 2))}})
    with pytest.raises(ValueError, match=r"matrices='sgd' is not one of \('adam', "):
        OptimizerSettings(learning_rate=1.0, matrices="sgd")
