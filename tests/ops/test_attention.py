import itertools

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests.tolerances import BFLOAT16, REFERENCE, REORDERED
from visor_jax.ops import attention
from visor_jax.ops.attention import KeyPart, attend, attend_to_parts
from visor_jax.ops.masks import TokenTags, visible


def reference(query, key, value, mask):
    batch, queries, heads, width = query.shape
    group = heads // key.shape[2]
    out = np.zeros(query.shape)
    for b, i, h in np.ndindex(batch, queries, heads):
        seen = np.flatnonzero(mask[b, i])
        scores = key[b, seen, h // group] @ query[b, i, h] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights @ value[b, seen, h // group] / weights.sum()
    return out


def inputs(seed, *, queries=3, keys=5, heads=4, kv_heads=2, width=6):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(2, queries, heads, width))
    key, value = rng.normal(size=(2, 2, keys, kv_heads, width))
    return query, key, value


@given(st.integers(0, 2**16), st.sampled_from([(4, 4), (4, 2), (6, 3), (4, 1)]))
def test_attention_without_tags_sees_all(seed, heads):
    arrays = inputs(seed, heads=heads[0], kv_heads=heads[1])
    actual = attend(*(jnp.asarray(x, jnp.float32) for x in arrays))
    np.testing.assert_allclose(
        actual, reference(*arrays, np.ones((2, 3, 5), bool)), **REFERENCE
    )


@given(st.integers(0, 2**16))
def test_attention_under_the_mask(seed):
    rng, arrays = np.random.default_rng(seed), inputs(seed, queries=5)
    positions = jnp.asarray(rng.permuted(np.tile(np.arange(5), (2, 1)), axis=1))
    segments = jnp.asarray(rng.integers(0, 3, (2, 5)))
    # Every valid token sees itself; the first in line is valid.
    valid = jnp.asarray(rng.random((2, 5)) < 0.8) | (positions == 0)
    tags = TokenTags(positions, segments, valid)
    mask = np.asarray(visible(tags, tags))
    actual = attend(*(jnp.asarray(x, jnp.float32) for x in arrays), tags, tags)
    rows = mask.any(axis=-1)
    expected = reference(*arrays, mask | ~rows[..., None])
    np.testing.assert_allclose(actual[rows], expected[rows], **REFERENCE)


def test_large_scores_do_not_overflow():
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(0))
    assert jnp.isfinite(attend(1e3 * query, 1e3 * key, value)).all()


def test_query_that_sees_nothing_stays_finite():
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(0, queries=5))
    zeros = jnp.zeros((2, 5), jnp.int32)
    nothing = TokenTags(zeros, zeros, zeros > 0)
    assert jnp.isfinite(attend(query, key, value, nothing, nothing)).all()


def test_bfloat16_keeps_its_dtype_and_most_of_its_digits():
    arrays = inputs(1)
    narrow = attend(*(jnp.asarray(x, jnp.bfloat16) for x in arrays))
    assert narrow.dtype == jnp.bfloat16
    wide = reference(*arrays, np.ones((2, 3, 5), bool))
    np.testing.assert_allclose(
        np.asarray(narrow, np.float64), wide, **BFLOAT16, err_msg="bfloat16"
    )


def test_heads_that_do_not_divide_are_an_error():
    query, key, value = inputs(0, heads=4, kv_heads=3)
    with pytest.raises(TypeError):
        attend(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)))


@pytest.mark.parametrize("cuts", [(2,), (0, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("longest", [attention.LONGEST_PLAIN, 0])
def test_keys_in_parts_are_the_keys_joined(monkeypatch, cuts, longest):
    """...where some query sees nothing of one part, and where a part is empty."""
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(1, queries=5))
    positions = jnp.tile(jnp.arange(5), (2, 1))
    segments = jnp.array([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])
    tags = TokenTags(positions, segments, jnp.ones((2, 5), bool))
    expected = attend(query, key, value, tags, tags)
    edges = (0, *cuts, 5)
    parts = []
    for start, stop in itertools.pairwise(edges):
        of = TokenTags(*(x[:, start:stop] for x in vars(tags).values()))
        parts.append(KeyPart(key[:, start:stop], value[:, start:stop], of))
    monkeypatch.setattr(attention, "LONGEST_PLAIN", longest)
    found = attend_to_parts(query, parts, tags)
    np.testing.assert_allclose(found, expected, **REORDERED)
    if longest:
        bare = [part._replace(tags=None) for part in parts]
        np.testing.assert_allclose(
            attend_to_parts(query, bare), attend(query, key, value), **REORDERED
        )
