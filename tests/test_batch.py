import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from visor_jax.batch import spec_of


def test_spec_names_every_field_that_is_present():
    batch = tiny.random_batch(tiny.VISOR)
    spec = spec_of(batch)
    assert "image_labels" not in spec
    assert spec["tokens"] == ((4, 10), np.dtype("int32"))
    assert spec["pixels"] == ((4, 2, 14, 14, 3), np.dtype("float32"))
    labelled = batch.replace(image_labels=np.zeros((4, 14), np.int32))
    assert spec_of(labelled) == {**spec, "image_labels": ((4, 14), np.dtype("int32"))}
    assert spec_of(tiny.on_device(batch)) == spec


def test_map_reaches_every_array_and_keeps_what_is_absent():
    batch = tiny.random_batch(tiny.VISOR)
    first = batch.map(lambda x: x[:1])
    assert first.size == 1
    assert first.image_labels is None
    assert all(x.shape[0] == 1 for x in jax.tree.leaves(first))


def test_batch_is_a_pytree():
    batch = tiny.on_device(tiny.random_batch(tiny.VISOR))
    doubled = jax.jit(lambda b: b.map(lambda x: jnp.concatenate([x, x])))(batch)
    assert doubled.size == 8
    assert spec_of(batch.map(np.asarray)) == spec_of(batch)
