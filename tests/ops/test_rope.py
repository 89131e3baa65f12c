import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from tests.tolerances import REFERENCE, ROTATED
from visor_jax.ops.rope import rotary_table, rotate


@given(st.integers(0, 40), st.integers(0, 2**16))
def test_pairs_turn_by_position_times_frequency(position, seed):
    x = np.random.default_rng(seed).normal(size=(1, 1, 2, 6))
    angles = position * 100.0 ** (-2 * np.arange(3) / 6)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    table = rotary_table(jnp.array([[position]]), 6, 100.0)
    actual = rotate(jnp.asarray(x, jnp.float32), table)
    np.testing.assert_allclose(actual, expected, **REFERENCE)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 500))
def test_products_depend_on_the_distance_only(first, second, shift):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 2, 1, 8)), jnp.float32)

    def product(*positions):
        turned = rotate(x, rotary_table(jnp.array([positions]), 8, 1e4))
        return jnp.sum(turned[0, 0] * turned[0, 1])

    there = product(first, second)
    moved = product(first + shift, second + shift)
    np.testing.assert_allclose(there, moved, **ROTATED)


def test_table_is_float32_also_for_bfloat16_activations():
    table = rotary_table(jnp.array([[1000, 1001]]), 4, 1e4)
    assert table.cos.dtype == jnp.float32
    assert table.cos[0, 0, 0] != table.cos[0, 1, 0]
    x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    assert rotate(x, table).dtype == jnp.bfloat16


def test_tables_concatenate_like_their_positions():
    one, other = jnp.array([[0, 3]]), jnp.array([[7]])
    joined = rotary_table(one, 4, 10.0).concat(rotary_table(other, 4, 10.0))
    whole = rotary_table(jnp.concatenate([one, other], axis=1), 4, 10.0)
    np.testing.assert_array_equal(joined.sin, whole.sin)
