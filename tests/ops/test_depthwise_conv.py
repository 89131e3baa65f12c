import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from tests.tolerances import REFERENCE
from visor_jax.ops.depthwise_conv import depthwise_conv, depthwise_conv_at


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


@settings(max_examples=20)
@given(
    st.sets(st.integers(0, 20), min_size=1),
    st.integers(0, 4),
    st.sampled_from([1, 3, 7]),
    st.integers(0, 2**16),
)
def test_what_is_left_of_a_sequence_is_convolved_where_it_stood(
    left, padding, taps, seed
):
    """Against plain loops over the whole sequence, 0 where tokens have gone."""
    places, rng = sorted(left), np.random.default_rng(seed)
    kernel = rng.normal(size=(taps, 3))
    whole = np.zeros((2, 21, 3))
    whole[:, places] = rng.normal(size=(2, len(places), 3))
    expected = np.zeros_like(whole)
    for place, tap in np.ndindex(21, taps):
        if 0 <= (neighbour := place + tap - taps // 2) < 21:
            expected[:, place] += kernel[tap] * whole[:, neighbour]
    x = np.pad(whole[:, places], ((0, 0), (0, padding), (0, 0)))
    at = np.tile([*places, *[0] * padding], (2, 1))
    actual = depthwise_conv_at(*map(jnp.float32, (x, kernel)), jnp.asarray(at))
    actual = actual[:, : len(places)]
    np.testing.assert_allclose(actual, expected[:, places], **REFERENCE)


def test_a_whole_sequence_has_its_own_places():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 3)), rng.normal(size=(7, 3))
    x, kernel = jnp.float32(x), jnp.float32(kernel)
    places = jnp.tile(jnp.arange(9), (2, 1))
    found = depthwise_conv_at(x, kernel, places)
    np.testing.assert_array_equal(found, depthwise_conv(x, kernel))
    # Without places, neighbours in memory would count.
    apart = depthwise_conv_at(x, kernel, 2 * places)
    assert np.abs(apart - found).max() > 0.1


def test_activations_keep_their_dtype():
    x = jnp.ones((1, 4, 2), jnp.bfloat16)
    assert depthwise_conv(x, jnp.ones((3, 2), jnp.float32)).dtype == jnp.bfloat16
