"""A kernel that XLA cannot split, on eight devices and on one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.kernels import numpy_attention
from tests.sharding.collectives import collectives
from tests.sharding.mesh_run import mesh_of
from tests.tolerances import GRADIENT, REFERENCE, REORDERED
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.kernels.on_mesh import refuses_mesh
from visor_jax.ops.kernels.splash import SplashKernel
from visor_jax.ops.kernels.tags import TagsKernel
from visor_jax.ops.masks import MaskForm
from visor_jax.sharding.axis_rules import logical_rules, spec

ROWS, LENGTH, HEADS, WIDTH = 8, 130, (4, 2), 8
# Each with the tokens it is tried on, and what it is told of their mask.
KERNELS = {
    "tags": (
        TagsKernel(block=128, interpret=True),
        numpy_attention.packed,
        MaskForm.TAGS,
    ),
    "splash": (
        SplashKernel(block=128, interpret=True),
        numpy_attention.unpacked,
        MaskForm.CAUSAL,
    ),
}


def inputs(tokens):
    """Returns query, key, value, weights of a loss, and the tags."""
    rng = np.random.default_rng(0)
    heads = (HEADS[0], HEADS[1], HEADS[1], HEADS[0])
    arrays = [
        jnp.asarray(rng.normal(size=(ROWS, LENGTH, each, WIDTH)), jnp.float32)
        for each in heads
    ]
    parts = [tokens(rng, LENGTH).tags for _ in range(ROWS // 2)]
    return arrays, jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def gradients(kernel, form, arrays, tags, gate):
    """As in training: in layers that are scanned, remembered in part, and gated."""
    *arrays, weight = arrays

    def layer(query, key, value):
        return kernel(query, [KeyPart(key, value, tags, form)], tags)

    def step(query, _):
        on = functools.partial(jax.checkpoint(layer), query, *arrays[1:])
        return jax.lax.cond(gate, on, lambda: query), None

    def loss(query, key, value):
        arrays[1:] = key, value
        mixed, _ = jax.lax.scan(step, query, length=2)
        return (mixed * weight).sum()

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(*arrays)


def run(name, sizes):
    """Returns loss and gradients on a mesh, and what the program sends."""
    kernel, tokens, form = KERNELS[name]
    arrays, tags = inputs(tokens)
    mesh = mesh_of(sizes)
    heads = jax.NamedSharding(mesh, spec(("batch", None, "heads")))
    rows = jax.NamedSharding(mesh, spec(("batch",)))
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        arrays, tags = jax.device_put(arrays, heads), jax.device_put(tags, rows)
        program = jax.jit(functools.partial(gradients, kernel, form))
        program = program.lower(arrays, tags, True).compile()
    return program(arrays, tags, True), collectives(program.as_text())


@functools.cache
def one_device(name):
    return run(name, (1, 1, 1))[0]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("tags", (2, 4, 1)), ("tags", (2, 2, 2)), ("splash", (2, 2, 2))],
    ids=str,
)
def test_eight_devices_give_what_one_gives_and_send_nothing_but_the_loss(name, sizes):
    (loss, found), sent = run(name, sizes)
    expected = one_device(name)
    np.testing.assert_allclose(loss, expected[0], **GRADIENT)
    for one, other in zip(found, expected[1], strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, **GRADIENT)
    assert {(x.kind, *x.numbers) for x in sent} == {("all-reduce", ())}


@pytest.mark.parametrize("form", [MaskForm.WHOLE, None], ids=str)
def test_splash_on_eight_devices_is_attention_without_a_mask_or_with_one_of_keys(form):
    kernel = KERNELS["splash"][0]
    (query, key, value, weight), tags = inputs(numpy_attention.unpacked)
    part = KeyPart(key, value, None)
    mask = np.ones((ROWS, LENGTH, LENGTH), bool)
    if form is not None:
        part = KeyPart(key, value, tags, form)
        mask &= np.asarray(tags.valid)[:, None]
    with jax.set_mesh(mesh_of((2, 2, 2))), nn.logical_axis_rules(logical_rules()):
        found = jax.jit(lambda query: kernel(query, [part], None))(query)
    expected, _ = numpy_attention.attention(query, key, value, mask, weight)
    np.testing.assert_allclose(found, expected, **REFERENCE)


@pytest.mark.parametrize("rows", [6, 1])
def test_rows_that_do_not_divide_are_computed_by_several_devices(rows):
    """Over data 2 and fsdp 2: three of six rows on each half, one row on all."""
    mesh = mesh_of((2, 2, 2))
    kernel, tokens, _ = KERNELS["tags"]
    (query, key, value, _), tags = jax.tree.map(lambda x: x[:rows], inputs(tokens))

    def attend(query, key, value):
        return kernel(query, [KeyPart(key, value, tags)], tags)

    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        found = jax.jit(attend)(query, key, value)
        split = found.sharding.shard_shape(found.shape)
    assert split == (rows // 2 if rows > 1 else 1, LENGTH, HEADS[0] // 2, WIDTH)
    np.testing.assert_allclose(found, attend(query, key, value), **REORDERED)


def refused(rows=8, heads=4, kv_heads=2, *, sizes, alone=True):
    query = jax.ShapeDtypeStruct((rows, 256, heads, 8), jnp.float32)
    key = jax.ShapeDtypeStruct((rows, 256, kv_heads, 8), jnp.float32)
    mesh = jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"))
    with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        return refuses_mesh(query, [key], alone=alone)


def test_what_a_mesh_cannot_split_is_refused_by_name():
    assert refused(sizes=(2, 4, 1)) is None
    assert refused(sizes=(2, 2, 2)) is None
    # Rows that an axis does not divide are the same on its devices.
    assert refused(rows=6, sizes=(2, 4, 1)) is None
    assert "6 heads do not split over 4" in refused(heads=6, sizes=(1, 1, 4))
    assert "2 key/value heads do not split over 4" in refused(sizes=(1, 1, 4))
    # One device needs no splitting, and a mesh says that it is one.
    assert refused(rows=3, heads=5, kv_heads=5, sizes=(1, 1, 1)) is None


def test_without_a_mesh_several_devices_are_refused_where_it_matters():
    query = jax.ShapeDtypeStruct((8, 256, 4, 8), jnp.float32)
    assert "which of the 8 devices" in refuses_mesh(query, [query])
    assert refuses_mesh(query, [query], alone=False) is None


def test_on_the_share_of_a_device_nothing_is_split_again():
    kernel, tokens, _ = KERNELS["tags"]
    arrays, tags = inputs(tokens)
    mesh = mesh_of((8, 1, 1))

    def share(query, key, tags):
        assert refuses_mesh(query, [key]) is None
        return kernel(query, [KeyPart(key, key, tags)], tags)

    rows = jax.P("data")
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        split = jax.shard_map(share, in_specs=rows, out_specs=rows, check_vma=False)
        found = jax.eval_shape(split, *arrays[:2], tags)
    assert found.shape == arrays[0].shape
