"""Grouped-query dot-product attention with the mask of `visor_jax.ops.masks`.

Two forms of the same mathematics: the plain one writes all scores down, the blockwise
one (`visor_jax.ops.blockwise_attention`) never holds more than two blocks' worth. The
lengths alone decide (`LONGEST_PLAIN`), so a program has one form or the other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.blockwise_attention import blockwise_attend
from visor_jax.ops.masks import TokenTags, mask_bias

# Queries times keys up to which the plain form is used: 2 MiB of float32 scores for
# every head and sample. Beyond it the blockwise form is faster on a CPU, too (729 by
# 729, H = 72: half the time). FLOPs accounts are of the plain form; the blockwise one
# does the same products, less the blocks it skips, plus the padding of blocks.
LONGEST_PLAIN = 512 * 1024


def attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B M K H"],
    value: Float[Array, "B M K H"],
    query_tags: TokenTags | None = None,
    key_tags: TokenTags | None = None,
) -> Float[Array, "B Q N H"]:
    """Returns softmax(q k^T / sqrt(H)) v, masked by the tags (no tags: no mask).

    Query head j uses key/value head j // (N // K). Scores and softmax are float32
    whatever the inputs are. A query that sees no key at all gets a meaningless finite
    value; the caller must not use it.
    """
    if query.shape[1] * key.shape[1] > LONGEST_PLAIN:
        return blockwise_attend(query, key, value, query_tags, key_tags)
    return plain_attend(query, key, value, query_tags, key_tags)


def plain_attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B M K H"],
    value: Float[Array, "B M K H"],
    query_tags: TokenTags | None = None,
    key_tags: TokenTags | None = None,
) -> Float[Array, "B Q N H"]:
    """Returns what `attend` does, with all scores in memory at once."""
    batch, length, num_heads, head_dim = query.shape
    num_kv_heads, keys = key.shape[2], key.shape[1]
    groups = num_heads // num_kv_heads
    # The heads of a group are stacked along the queries, so that both products are
    # plain batched matmuls; scaling q is cheaper than scaling the scores.
    grouped = (query * head_dim**-0.5).reshape(
        batch, length, num_kv_heads, groups, head_dim
    )
    grouped = grouped.transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, num_kv_heads, groups * length, head_dim)
    key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
    scores = jnp.matmul(grouped, key, preferred_element_type=jnp.float32)
    if query_tags is not None:
        bias = mask_bias(query_tags, key_tags)
        scores = scores.reshape(batch, num_kv_heads, groups, length, keys)
        scores = (scores + bias[:, None, None]).reshape(*grouped.shape[:3], keys)
    # Softmax with the division after the second product: H instead of M divisions a
    # row, and a backward pass four times as fast on a CPU (width 304, H = 32).
    peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.matmul(
        weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    mixed = (mixed / total).astype(value.dtype)
    mixed = mixed.reshape(batch, num_kv_heads, groups, length, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(query.shape)
