import jax.numpy as jnp
import numpy as np

from visor_jax.models.image_tokens import gather_image_tokens


def test_drawn_example():
    patches = jnp.arange(8.0).reshape(1, 2, 4, 1)
    index = jnp.array([[0, 1, 2, 3, 4, 5, 8, 0]])
    tokens = gather_image_tokens(patches, jnp.array([-1.0]), index)
    np.testing.assert_array_equal(tokens[0, :, 0], [0, 1, 2, 3, 4, 5, -1, 0])


def test_samples_do_not_mix():
    patches = jnp.arange(12.0).reshape(2, 1, 3, 2)
    tokens = gather_image_tokens(patches, None, jnp.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(tokens[:, :, 0], [[4, 0], [8, 8]])
