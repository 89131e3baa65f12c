import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import REORDERED
from visor_jax.models.vision.image_tokens import gather_image_tokens


def test_drawn_example():
    patches = jnp.arange(8.0).reshape(1, 2, 4, 1)
    index = jnp.array([[0, 1, 2, 3, 4, 5, 8, 0]])
    tokens = gather_image_tokens(patches, jnp.array([-1.0]), index)
    np.testing.assert_array_equal(tokens[0, :, 0], [0, 1, 2, 3, 4, 5, -1, 0])


def test_samples_do_not_mix():
    patches = jnp.arange(12.0).reshape(2, 1, 3, 2)
    tokens = gather_image_tokens(patches, None, jnp.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(tokens[:, :, 0], [[4, 0], [8, 8]])


def test_weighted_tokens_are_sums_of_patches():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    newline = rng.normal(size=5).astype(np.float32)
    index = rng.integers(0, 13, (2, 7, 4)).astype(np.int32)
    weights = rng.random((2, 7, 4)).astype(np.float32)
    found = gather_image_tokens(
        *map(jnp.asarray, (patches, newline, index)), jnp.asarray(weights)
    )
    places = np.concatenate(
        [patches.reshape(2, 12, 5), np.broadcast_to(newline, (2, 1, 5))], axis=1
    )
    chosen = places[np.arange(2)[:, None, None], index]
    expected = np.einsum("bvkd,bvk->bvd", chosen, weights)
    np.testing.assert_allclose(found, expected, **REORDERED)


def test_sums_of_half_precision_are_made_in_float32():
    patches = jnp.full((1, 1, 4, 1), 1.0078125, jnp.bfloat16)
    weights = jnp.full((1, 1, 4), 0.25, jnp.float32)
    tokens = gather_image_tokens(patches, None, jnp.arange(4)[None, None], weights)
    assert tokens.dtype == jnp.bfloat16
    assert float(tokens[0, 0, 0]) == 1.0078125


def test_an_index_with_corners_needs_weights():
    patches = jnp.zeros((1, 1, 4, 2))
    with pytest.raises(ValueError, match="needs weights"):
        gather_image_tokens(patches, None, jnp.zeros((1, 3, 4), int))
    with pytest.raises(ValueError, match="needs no weights"):
        gather_image_tokens(patches, None, jnp.zeros((1, 3), int), jnp.zeros((1, 3)))
