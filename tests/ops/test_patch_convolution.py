import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from tests.tolerances import REFERENCE
from visor_jax.ops.patch_convolution import patch_convolution


@given(
    st.integers(1, 5), st.sampled_from([1, 3, 5]), st.sampled_from([(), (2,), (2, 3)])
)
def test_every_patch_gets_those_around_it_in_its_own_crop(side, taps, crops):
    """Against plain loops: crops of one row after the other, zeros beyond the edge."""
    rng = np.random.default_rng(side)
    x = rng.normal(size=(*crops, side, side, 2))
    kernel = rng.normal(size=(taps, taps, 2, 3))
    expected = np.zeros((*crops, side, side, 3))
    for row, column, down, across in np.ndindex(side, side, taps, taps):
        there = row + down - taps // 2, column + across - taps // 2
        if all(0 <= place < side for place in there):
            seen = x[..., there[0], there[1], :]
            expected[..., row, column, :] += seen @ kernel[down, across]
    actual = patch_convolution(
        jnp.float32(x.reshape(*crops, -1, 2)), jnp.float32(kernel)
    )
    flat = expected.reshape(*crops, -1, 3)
    np.testing.assert_allclose(actual, flat, **REFERENCE)


def test_half_precision_stays():
    x, kernel = jnp.ones((4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.float32)
    assert patch_convolution(x, kernel).dtype == jnp.bfloat16
