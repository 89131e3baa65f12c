import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visor_jax.layer_plan import READ
from visor_jax.ops.gating import as_sequence, gated, is_static

# The package's own checks, without those that the tests put around every function.
as_sequence = inspect.unwrap(as_sequence)


class Gated(nn.Module):
    """Doubles by a parameter if the gate is open, else adds one without it."""

    def setup(self):
        self.inner = nn.Dense(
            1, use_bias=False, kernel_init=nn.initializers.constant(2)
        )

    def __call__(self, x, gate):
        return gated(
            gate,
            lambda m, x: m(x),
            lambda m, x: x + 1,
            self.inner,
            x,
            read=lambda m, x: m(x) - 1,
        )


X = jnp.full((1, 1), 5.0)


@pytest.mark.parametrize(("gate", "expected"), [(True, 10.0), (False, 6.0)])
def test_both_forms_take_the_same_branch(gate, expected):
    params = Gated().init(jax.random.key(0), X, gate=True)
    assert Gated().apply(params, X, gate) == expected
    assert jax.jit(Gated().apply)(params, X, jnp.array(gate)) == expected


@pytest.mark.parametrize(
    ("gate", "level", "expected"), [(False, 0, 6.0), (READ, 1, 9.0), (True, 2, 10.0)]
)
def test_a_middle_position_is_a_third_branch(gate, level, expected):
    params = Gated().init(jax.random.key(0), X, gate=READ)
    assert Gated().apply(params, X, gate) == expected
    assert jax.jit(Gated().apply)(params, X, jnp.int32(level)) == expected


def test_initialisation_under_a_traced_gate_makes_all_parameters():
    params = jax.jit(Gated().init)(jax.random.key(0), X, jnp.array(False))
    assert params["params"]["inner"]["kernel"].shape == (1, 1)


def test_python_bools_are_static_and_arrays_are_not():
    assert is_static((True, False))
    assert is_static(())
    assert not is_static(jnp.array([True]))


def test_gates_become_one_for_each_layer():
    assert as_sequence([True, False], 2) == (True, False)
    assert as_sequence([READ, np.True_], 2) == (READ, True)
    first, second = as_sequence(jnp.array([True, False]), 2)
    assert first.shape == second.shape == ()
    assert [int(x) for x in as_sequence(jnp.array([2, 0]), 2)] == [2, 0]
    assert as_sequence(jnp.zeros(0, bool), 0) == ()


@pytest.mark.parametrize(
    "gates",
    [
        np.ones((4, 2), bool),
        np.ones((2, 2), bool),
        np.ones(3, bool),
        np.ones((), bool),
        np.ones(3, np.int32),
        np.ones(2, np.float32),
    ],
)
def test_traced_gates_of_another_shape_or_dtype_are_refused(gates):
    with pytest.raises(ValueError, match=r"bool \(2,\).*group the samples by budget"):
        as_sequence(jnp.asarray(gates), 2)


def test_wrong_count_is_refused():
    with pytest.raises(ValueError, match="must be 2 bools, one per SELF layer"):
        as_sequence((True,), 2)


def test_numbers_blend_the_branches_sample_by_sample():
    params = Gated().init(jax.random.key(0), X, gate=True)
    x, gate = jnp.full((3, 1), 5.0), jnp.array([0.0, 0.25, 1.0])
    blended = jax.jit(Gated().apply)(params, x, gate)
    np.testing.assert_array_equal(blended, [[6.0], [7.0], [10.0]])
    grad = jax.grad(lambda gate: Gated().apply(params, x, gate).sum())(gate)
    np.testing.assert_array_equal(grad, [4.0, 4.0, 4.0])


def test_blending_gates_are_one_column_for_each_layer():
    gates = jnp.asarray(np.arange(6).reshape(3, 2) / 8)
    first, second = as_sequence(gates, 2)
    np.testing.assert_array_equal(first, gates[:, 0])
    np.testing.assert_array_equal(second, gates[:, 1])
    with pytest.raises(ValueError, match="group the samples by budget"):
        as_sequence(gates, 3)
