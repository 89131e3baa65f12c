"""Attention in blocks of queries and keys: memory grows with length, not its square.

Each row's softmax is built up key block by key block, with a running peak and total
(Rabe and Staats 2021; FlashAttention, Dao et al. 2022). The backward pass computes the
weights again from each row's logarithm of the total. Two blocks do not meet at all if
every valid key of the one lies after every query of the other; for tokens in order:

    queries    keys  0-3  4-7  8-11
    0-3              x    .    .
    4-7              x    x    .
    8-11             x    x    x

The tags' order decides that, so tokens may lie in memory as they like; sorted by it
they are also fast.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.ops.gating import updated_if
from visor_jax.ops.kernels.kernel import KeyPart, block_length, joined
from visor_jax.ops.masks import HIDDEN, TokenTags, mask_bias

# Tokens in a block, at most: large enough for products that use the machine fully,
# small enough for the scores of two blocks to stay near the processor.
BLOCK = 256
# Blocks are a multiple of this.
_STEP = 16


class BlockwiseKernel:
    """`blockwise_attend` over the parts joined: for any length, on any platform."""

    writes_scores = False

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns None."""
        del query, parts, platform
        return None

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns `blockwise_attend`."""
        key, value, tags, _ = joined(parts)
        return blockwise_attend(query, key, value, query_tags, tags)


class _Tags(NamedTuple):
    """`TokenTags` in blocks: every field is (blocks, B, tokens of a block)."""

    order: Int[Array, "n B T"]
    segments: Int[Array, "n B T"]
    valid: Bool[Array, "n B T"]


class _Blocks(NamedTuple):
    """What the loops run over; G = N // K query heads share a key/value head.

    query: (n, B, K, G * Q, H), scaled. key, value: (m, B, K, M, H). needed: (n, m),
    whether any query of one block may see any key of the other.
    """

    query: Array
    key: Array
    value: Array
    query_tags: _Tags
    key_tags: _Tags
    needed: Bool[Array, "n m"]


def blockwise_attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B M K H"],
    value: Float[Array, "B M K H"],
    query_tags: TokenTags | None = None,
    key_tags: TokenTags | None = None,
    *,
    block: int = BLOCK,
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does, never forming (Q, M) arrays.

    Args:
      block: most tokens in a block of queries or keys.
    """
    batch, queries, heads, width = query.shape
    keys, kv_heads = key.shape[1:3]
    groups = heads // kv_heads
    query_block, key_block = (
        block_length(n, block, multiple=_STEP) for n in (queries, keys)
    )
    query_tags = _tags_in_blocks(query_tags, batch, queries, query_block)
    key_tags = _tags_in_blocks(key_tags, batch, keys, key_block)
    grouped = _in_blocks(query * width**-0.5, query_block)
    grouped = grouped.reshape(*grouped.shape[:3], kv_heads, groups, width)
    grouped = grouped.transpose(0, 1, 3, 4, 2, 5)
    stacked = grouped.reshape(*grouped.shape[:3], groups * query_block, width)
    key, value = (_in_blocks(x, key_block).swapaxes(2, 3) for x in (key, value))
    needed = _needed(query_tags, key_tags)
    mixed = _attend(_Blocks(stacked, key, value, query_tags, key_tags, needed))
    mixed = mixed.reshape(grouped.shape).transpose(1, 0, 4, 2, 3, 5)
    return mixed.reshape(batch, -1, heads, width)[:, :queries]


def _in_blocks(x: Array, block: int) -> Array:
    """Returns (B, T, ...) as (blocks, B, block, ...), padded with zeros."""
    extra = -x.shape[1] % block
    x = jnp.pad(x, ((0, 0), (0, extra), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(x.shape[0], -1, block, *x.shape[2:]).swapaxes(0, 1)


def _tags_in_blocks(
    tags: TokenTags | None, batch: int, length: int, block: int
) -> _Tags:
    # The padding is invalid, with or without tags.
    if tags is None:
        zeros = jnp.zeros((batch, length), jnp.int32)
        tags = TokenTags(zeros, zeros, jnp.ones((batch, length), bool))
    fields = (tags.order, tags.segments, tags.valid)
    return _Tags(*(_in_blocks(x, block) for x in fields))


def _needed(query: _Tags, key: _Tags) -> Bool[Array, "n m"]:
    last_query = query.order.max(axis=-1)
    never = jnp.iinfo(key.order.dtype).max
    first_key = jnp.where(key.valid, key.order, never).min(axis=-1)
    return (first_key[None] <= last_query[:, None]).any(axis=-1)


@jax.custom_vjp
def _attend(blocks: _Blocks) -> Array:
    """Returns the mixed values of all queries, shaped and typed like them."""
    return _attend_forward(blocks)[0]


def _attend_forward(blocks: _Blocks) -> tuple[Array, Any]:
    def rows(of_query: tuple) -> tuple[Array, Array]:
        query, tags, needed = of_query
        start = (
            jnp.full(query.shape[:-1], HIDDEN, jnp.float32),
            jnp.zeros(query.shape[:-1], jnp.float32),
            jnp.zeros(query.shape, jnp.float32),
        )

        def add(state: tuple, of_key: tuple) -> tuple[tuple, None]:
            need, *rest = of_key

            def see(state: tuple) -> tuple:
                return _with_keys(state, query, tags, *rest)

            return updated_if(need, see, state), None

        over = (needed, blocks.key, blocks.value, blocks.key_tags)
        (peak, total, mixed), _ = jax.lax.scan(add, start, over)
        # Nothing was seen: any finite result will do, and no gradient.
        mixed = mixed / jnp.where(total > 0, total, 1)[..., None]
        log_total = jnp.where(peak > HIDDEN / 2, peak + jnp.log(total), -HIDDEN)
        return mixed.astype(query.dtype), log_total

    mixed, log_total = jax.lax.map(
        rows, (blocks.query, blocks.query_tags, blocks.needed)
    )
    return mixed, (blocks, mixed, log_total)


def _with_keys(
    state: tuple[Array, Array, Array],
    query: Array,
    query_tags: _Tags,
    key: Array,
    value: Array,
    key_tags: _Tags,
) -> tuple[Array, Array, Array]:
    """Returns (peak, total, mixed) of each row after one more block of keys."""
    peak, total, mixed = state
    scores = _scores(query, query_tags, key, key_tags)
    new_peak = jnp.maximum(peak, scores.max(axis=-1))
    weights = jnp.exp(scores - new_peak[..., None])
    shrink = jnp.exp(peak - new_peak)
    added = jnp.matmul(
        weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    total = total * shrink + weights.sum(axis=-1)
    return new_peak, total, mixed * shrink[..., None] + added


def _scores(query: Array, query_tags: _Tags, key: Array, key_tags: _Tags) -> Array:
    """Returns masked scores (B, K, G * Q, M), float32."""
    scores = jnp.matmul(query, key.mT, preferred_element_type=jnp.float32)
    bias = mask_bias(TokenTags(*query_tags), TokenTags(*key_tags))[:, None, None]
    apart = scores.reshape(*scores.shape[:2], -1, *bias.shape[-2:])
    return (apart + bias).reshape(scores.shape)


def _attend_backward(residuals: Any, d_mixed: Array) -> tuple[_Blocks]:
    blocks, mixed, log_total = residuals
    wide = d_mixed.astype(jnp.float32)
    # What the softmax takes off every score's gradient.
    shared = (wide * mixed.astype(jnp.float32)).sum(axis=-1)

    def of_keys(d_query: Array, of_key: tuple) -> tuple[Array, tuple]:
        needed, *keys = of_key

        def of_rows(d_keys: tuple, of_query: tuple) -> tuple[tuple, Array]:
            need, d_query, *rows = of_query

            def add(gradients: tuple) -> tuple:
                return _with_gradients(gradients, *rows, *keys)

            d_query, *d_keys = updated_if(need, add, (d_query, *d_keys))
            return tuple(d_keys), d_query

        start = tuple(jnp.zeros(x.shape, jnp.float32) for x in keys[:2])
        rows = (blocks.query, blocks.query_tags, log_total, shared, d_mixed)
        d_keys, d_query = jax.lax.scan(of_rows, start, (needed, d_query, *rows))
        return d_query, d_keys

    keys = (blocks.key, blocks.value, blocks.key_tags)
    zeros = jnp.zeros(blocks.query.shape, jnp.float32)
    d_query, (d_key, d_value) = jax.lax.scan(of_keys, zeros, (blocks.needed.T, *keys))
    gradients = (
        d.astype(x.dtype)
        for d, x in zip((d_query, d_key, d_value), blocks[:3], strict=True)
    )
    return (_Blocks(*gradients, None, None, None),)


def _with_gradients(
    gradients: tuple[Array, Array, Array],
    query: Array,
    query_tags: _Tags,
    log_total: Array,
    shared: Array,
    d_mixed: Array,
    key: Array,
    value: Array,
    key_tags: _Tags,
) -> tuple[Array, Array, Array]:
    """Returns the gradients of query, key and value with this pair of blocks' share."""

    def product(left: Array, right: Array) -> Array:
        left = left.astype(right.dtype)
        return jnp.matmul(left, right, preferred_element_type=jnp.float32)

    d_query, d_key, d_value = gradients
    scores = _scores(query, query_tags, key, key_tags)
    weights = jnp.exp(scores - log_total[..., None])
    d_weights = product(d_mixed, value.mT)
    d_scores = weights * (d_weights - shared[..., None])
    return (
        d_query + product(d_scores, key),
        d_key + product(d_scores.mT, query),
        d_value + product(weights.mT, d_mixed),
    )


_attend.defvjp(_attend_forward, _attend_backward)
