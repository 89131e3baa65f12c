"""Attention in blocks against the plain form, values and gradients."""

import functools
from collections.abc import Iterator

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests.tolerances import BFLOAT16, GRADIENT, REORDERED
from visor_jax.ops.kernels.blockwise import blockwise_attend
from visor_jax.ops.kernels.kernel import KeyPart, block_length
from visor_jax.ops.kernels.plain import plain_attend
from visor_jax.ops.masks import TokenTags, visible

BATCH, WIDTH = 2, 4


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def arrays(rng, queries, keys, heads=(4, 2)):
    shapes = ((queries, heads[0]), (keys, heads[1]), (keys, heads[1]))
    return tuple(
        jnp.asarray(rng.normal(size=(BATCH, *shape, WIDTH)), jnp.float32)
        for shape in shapes
    )


def random_tags(rng, length, order=False):
    """Returns tags of every kind: in any order, packed, with holes."""
    positions = np.tile(np.arange(length), (BATCH, 1))
    if not order:
        positions = rng.permuted(positions, axis=1)
    segments = rng.integers(0, 3, (BATCH, length))
    valid = rng.random((BATCH, length)) < 0.7
    return TokenTags(*(jnp.asarray(x) for x in (positions, segments, valid)))


def plainly(query, key, value, query_tags=None, key_tags=None):
    return plain_attend(query, [KeyPart(key, value, key_tags)], query_tags)


@functools.partial(jax.jit, static_argnames="block")
def both(query, key, value, query_tags, key_tags, *, block):
    inputs = (query, key, value, query_tags, key_tags)
    return blockwise_attend(*inputs, block=block), plainly(*inputs)


# Queries, keys, heads, most tokens in a block. Every entry is compiled once.
SHAPES = {
    "one block": (5, 5, (4, 4), 16),
    "shared heads": (33, 47, (4, 2), 16),
    "one query": (1, 70, (2, 1), 32),
}


@pytest.mark.parametrize("name", SHAPES)
@given(seed=st.integers(0, 2**16))
def test_blocks_give_what_the_plain_form_gives(name, seed):
    queries, keys, heads, block = SHAPES[name]
    rng = np.random.default_rng(seed)
    inputs = arrays(rng, queries, keys, heads)
    tags = random_tags(rng, queries), random_tags(rng, keys)
    found, expected = both(*inputs, *tags, block=block)
    assert np.isfinite(found).all()
    sees = np.asarray(visible(*tags).any(axis=-1))
    np.testing.assert_allclose(found[sees], expected[sees], **REORDERED)


def test_without_tags_all_is_seen():
    inputs = arrays(np.random.default_rng(0), 33, 47)
    found, expected = both(*inputs, None, None, block=16)
    np.testing.assert_allclose(found, expected, **REORDERED)


@pytest.mark.parametrize("order", [True, False])
def test_gradients_are_those_of_the_plain_form(order):
    rng, length = np.random.default_rng(3), 40
    inputs = arrays(rng, length, length)
    tags = random_tags(rng, length, order)
    weight = jnp.asarray(rng.normal(size=inputs[0].shape), jnp.float32)
    # As everywhere: what a row that sees nothing gives is not used.
    weight *= visible(tags, tags).any(axis=-1)[..., None, None]

    def gradient(form):
        def loss(query, key, value):
            return (weight * form(query, key, value, tags, tags)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    found = gradient(functools.partial(blockwise_attend, block=16))
    for one, other in zip(found, gradient(plainly), strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, **GRADIENT)


def test_rows_that_see_nothing_give_finite_values_and_no_gradient():
    inputs = arrays(np.random.default_rng(0), 20, 20)
    zeros = jnp.zeros((BATCH, 20), jnp.int32)
    nothing = TokenTags(zeros, zeros, zeros > 0)

    def loss(*inputs):
        return blockwise_attend(*inputs, nothing, nothing, block=16).sum()

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    value, gradients = both(*inputs)
    assert np.isfinite(value)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_blocks_in_the_future_are_skipped():
    """A product with NaN would give NaN, whatever the mask says."""
    query, key, value = arrays(np.random.default_rng(0), 48, 48)
    tags = random_tags(np.random.default_rng(0), 48, order=True)
    ruined = [x.at[:, 32:].set(jnp.nan) for x in (key, value)]
    found = blockwise_attend(query, *ruined, tags, tags, block=16)
    assert np.isfinite(found[:, :32]).all()
    assert np.isnan(found[:, 32:]).any()


def test_large_scores_do_not_overflow():
    query, key, value = arrays(np.random.default_rng(0), 20, 20)
    found = blockwise_attend(1e3 * query, 1e3 * key, value, block=16)
    expected = plainly(1e3 * query, 1e3 * key, value)
    np.testing.assert_allclose(found, expected, **REORDERED)


def test_bfloat16_keeps_its_dtype_and_most_of_its_digits():
    wide = arrays(np.random.default_rng(1), 40, 40)
    narrow = tuple(x.astype(jnp.bfloat16) for x in wide)

    @jax.jit
    def run(*inputs):
        mixed, back = jax.vjp(functools.partial(blockwise_attend, block=16), *inputs)
        return mixed, back(mixed)

    found, gradients = run(*narrow)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(found, np.float32), plainly(*wide), **BFLOAT16
    )
    assert {g.dtype for g in gradients} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [(7377, 256, 256), (300, 256, 160), (5, 256, 16), (256, 256, 256), (33, 16, 16)],
)
def test_blocks_are_of_equal_length_with_little_padding(length, most, expected):
    assert block_length(length, most, multiple=16) == expected
