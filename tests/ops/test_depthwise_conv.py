import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from tests.tolerances import REFERENCE
from visor_jax.ops.depthwise_conv import depthwise_conv


@given(st.integers(1, 9), st.sampled_from([1, 3, 7]), st.integers(0, 2**16))
def test_each_channel_has_its_own_filter(length, taps, seed):
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(2, length, 3)), rng.normal(size=(taps, 3))
    expected = np.zeros_like(x)
    for place, tap in np.ndindex(length, taps):
        neighbour = place + tap - taps // 2
        if 0 <= neighbour < length:
            expected[:, place] += kernel[tap] * x[:, neighbour]
    actual = depthwise_conv(
        jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    )
    np.testing.assert_allclose(actual, expected, **REFERENCE)


def test_activations_keep_their_dtype():
    x = jnp.ones((1, 4, 2), jnp.bfloat16)
    assert depthwise_conv(x, jnp.ones((3, 2), jnp.float32)).dtype == jnp.bfloat16
