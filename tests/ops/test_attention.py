"""Which kernel is chosen, and the mathematics of the one that usually is."""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests import tiny
from tests.tolerances import BFLOAT16, REFERENCE, REORDERED
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.ops import attention
from visor_jax.ops.attention import attend, chosen, writes_scores
from visor_jax.ops.kernels.blockwise import BlockwiseKernel
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import TokenTags, visible
from visor_jax.settings.model_settings import ModelSettings


def alone(query, key, value, query_tags=None, key_tags=None):
    return attend(query, [KeyPart(key, value, key_tags)], query_tags)


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
    actual = alone(*(jnp.asarray(x, jnp.float32) for x in arrays))
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
    actual = alone(*(jnp.asarray(x, jnp.float32) for x in arrays), tags, tags)
    rows = mask.any(axis=-1)
    expected = reference(*arrays, mask | ~rows[..., None])
    np.testing.assert_allclose(actual[rows], expected[rows], **REFERENCE)


def test_large_scores_do_not_overflow():
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(0))
    assert jnp.isfinite(alone(1e3 * query, 1e3 * key, value)).all()


def test_query_that_sees_nothing_stays_finite():
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(0, queries=5))
    zeros = jnp.zeros((2, 5), jnp.int32)
    nothing = TokenTags(zeros, zeros, zeros > 0)
    assert jnp.isfinite(alone(query, key, value, nothing, nothing)).all()


def test_bfloat16_keeps_its_dtype_and_most_of_its_digits():
    arrays = inputs(1)
    narrow = alone(*(jnp.asarray(x, jnp.bfloat16) for x in arrays))
    assert narrow.dtype == jnp.bfloat16
    wide = reference(*arrays, np.ones((2, 3, 5), bool))
    np.testing.assert_allclose(
        np.asarray(narrow, np.float64), wide, **BFLOAT16, err_msg="bfloat16"
    )


def test_heads_that_do_not_divide_are_an_error():
    query, key, value = inputs(0, heads=4, kv_heads=3)
    with pytest.raises(TypeError):
        alone(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)))


@pytest.mark.parametrize("cuts", [(2,), (0, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("kernel", ["plain", "blockwise"])
def test_keys_in_parts_are_the_keys_joined(cuts, kernel):
    """...where some query sees nothing of one part, and where a part is empty."""
    query, key, value = (jnp.asarray(x, jnp.float32) for x in inputs(1, queries=5))
    positions = jnp.tile(jnp.arange(5), (2, 1))
    segments = jnp.array([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])
    tags = TokenTags(positions, segments, jnp.ones((2, 5), bool))
    expected = alone(query, key, value, tags, tags)
    edges = (0, *cuts, 5)
    parts = []
    for start, stop in itertools.pairwise(edges):
        of = jax.tree.map(lambda x: x[:, start:stop], tags)  # noqa: B023
        parts.append(KeyPart(key[:, start:stop], value[:, start:stop], of))
    found = attend(query, parts, tags, kernel=kernel)
    np.testing.assert_allclose(found, expected, **REORDERED)
    bare = [part._replace(tags=None) for part in parts]
    found = attend(query, bare, kernel=kernel)
    np.testing.assert_allclose(found, alone(query, key, value), **REORDERED)


def of_lengths(queries, *keys):
    """Returns abstract arrays of these lengths."""
    key = [jax.ShapeDtypeStruct((1, count, 1, 4), jnp.float32) for count in keys]
    query = jax.ShapeDtypeStruct((1, queries, 1, 4), jnp.float32)
    return query, [KeyPart(x, x, None) for x in key]


@pytest.mark.parametrize(
    ("lengths", "name"),
    [
        ((1024, 512), "plain"),
        ((1, 100_000), "plain"),
        ((729, 729), "blockwise"),
        ((1024, 500, 12), "plain"),
        ((1024, 500, 13), "blockwise"),
    ],
)
def test_on_a_cpu_the_lengths_choose(lengths, name):
    assert chosen(*of_lengths(*lengths), platform="cpu") == name
    assert writes_scores(lengths[0], sum(lengths[1:])) == (name == "plain")


def test_what_is_chosen_is_what_runs():
    def program(*lengths):
        query, parts = of_lengths(*lengths)
        return str(jax.make_jaxpr(attend)(query, parts))

    assert "scan" not in program(729, 700)
    assert "scan" in program(729, 729)


def test_a_named_kernel_is_used_or_says_why_not():
    query, parts = of_lengths(2, 3)
    assert chosen(query, parts, kernel="blockwise") == "blockwise"
    text = jax.make_jaxpr(functools.partial(attend, kernel="blockwise"))(query, parts)
    assert "scan" in str(text)
    assert not writes_scores(2, 3, kernel="blockwise")
    many = of_lengths(10_000, 10_000)
    with pytest.raises(ValueError, match=r"'plain' cannot.*10000 queries x 10000 keys"):
        chosen(*many, kernel="plain")


def test_unknown_kernels_are_errors_with_the_known_ones():
    for fails in (
        lambda: jax.eval_shape(
            functools.partial(attend, kernel="flesh"), *of_lengths(2, 3)
        ),
        lambda: writes_scores(2, 3, kernel="flesh"),
        ModelSettings(variant="mini", attention="flesh").build,
    ):
        with pytest.raises(ValueError, match=r"'flesh' is not one of .*'plain', 'bl"):
            fails()


def test_the_network_of_a_named_kernel_uses_it_everywhere(monkeypatch):
    """Tower, decoder layers and adapters; settings reach them, metadata do not."""
    config = ModelSettings(variant="mini", attention="blockwise").build()
    assert config.attention == "blockwise"
    assert VLMConfig.from_dict(config.to_dict()) == config.replace(
        attention="auto", scan_layers="off"
    )
    config, used = tiny.VISOR.replace(attention="blockwise"), []

    class Noting(BlockwiseKernel):
        def __call__(self, query, parts, query_tags):
            used.append(query.shape[1:])
            return super().__call__(query, parts, query_tags)

    class Missing:
        def refuses(self, query, parts, platform):
            raise AssertionError("asked though another kernel was named")

    params = tiny.params_of(tiny.VISOR)
    monkeypatch.setitem(attention.KERNELS, "blockwise", Noting())
    monkeypatch.setitem(attention.KERNELS, "plain", Missing())
    batch = tiny.random_batch(config)
    jax.eval_shape(
        lambda p, b: VLM(config).apply(p, b, tiny.all_on(config)), params, batch
    )
    vision, kinds = config.vision, config.plan.kinds
    tower = [
        s for s in used if s == (vision.num_patches, vision.num_heads, vision.head_dim)
    ]
    assert len(tower) >= vision.num_layers
    assert len(used) - len(tower) == len(kinds) + len(config.plan.cross_layers)
