"""Sampled choices: one-hot forward, Gumbel-softmax backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.tolerances import EXACT, REORDERED
from tests.training.objectives.finite_differences import slope
from visor_jax.training.objectives.policy_step import straight_through


def test_a_choice_is_one_hot_forward_and_gumbel_softmax_backward():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    losses = jnp.asarray(rng.random((5, 4)), jnp.float32)
    key, temperature = jax.random.key(3), 0.7
    choice = np.asarray(straight_through(logits, key, temperature))
    np.testing.assert_array_equal(np.sort(choice, axis=1), [[0, 0, 0, 1]] * 5)
    noise = np.asarray(jax.random.gumbel(key, logits.shape))

    def relaxed(x):
        powers = np.exp((np.asarray(x, np.float64) + noise) / temperature)
        return np.sum(powers / powers.sum(axis=1, keepdims=True) * np.asarray(losses))

    grad = jax.grad(lambda x: jnp.sum(straight_through(x, key, temperature) * losses))(
        logits
    )
    expected = slope(relaxed, np.asarray(logits, np.float64), 1e-5)
    np.testing.assert_allclose(grad, expected, **REORDERED)


def test_temperature_limits():
    logits = jnp.asarray([[0.3, 0.1, -0.2, 0.9]])
    key = jax.random.key(0)

    def soft(temperature):
        # What flows back from each weight: the rows of the softmax's Jacobian.
        pick = functools.partial(straight_through, key=key, temperature=temperature)
        return np.asarray(jax.jacobian(lambda x: pick(x)[0])(logits))[:, 0]

    # Uniform weights 1/4: the Jacobian of a softmax there, over the temperature.
    hot = 1e4 * soft(1e4)
    np.testing.assert_allclose(hot, (np.eye(4) - 0.25) / 4, rtol=0, atol=1e-3)
    # One-hot weights do not move at all.
    np.testing.assert_allclose(soft(1e-3), 0, **EXACT)
