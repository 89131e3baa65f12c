import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny


def test_map_reaches_every_array_and_keeps_what_is_absent():
    batch = tiny.random_batch(tiny.VISOR)
    first = batch.map(lambda x: x[:1])
    assert first.size == 1
    assert first.image_labels is None
    # All but labels, weights and places.
    leaves = jax.tree.leaves(first)
    assert len(leaves) == len(dataclasses.fields(batch)) - 3
    assert all(x.shape[0] == 1 for x in leaves)
    labelled = batch.replace(image_labels=np.zeros((4, 14), np.int32))
    assert labelled.map(lambda x: x[:1]).image_labels.shape == (1, 14)


def test_batch_is_a_pytree():
    batch = tiny.on_device(tiny.random_batch(tiny.VISOR))
    doubled = jax.jit(lambda b: b.map(lambda x: jnp.concatenate([x, x])))(batch)
    assert doubled.size == 8
    np.testing.assert_array_equal(doubled.tokens[:4], batch.tokens)
    np.testing.assert_array_equal(doubled.pixels[4:], batch.pixels)
