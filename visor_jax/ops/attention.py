"""Grouped-query dot-product attention with the mask of `visor_jax.ops.masks`.

Two forms of the same mathematics: the plain one writes all scores down, the blockwise
one (`visor_jax.ops.kernels.blockwise`) never holds more than two blocks' worth. The
lengths alone decide (`LONGEST_PLAIN`), so a program has one form or the other.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.kernels.blockwise import blockwise_attend
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
    return _attend_plainly(query, [KeyPart(key, value, key_tags)], query_tags)


class KeyPart(NamedTuple):
    """Some of the keys that queries attend to; tags are None where nothing is masked.

    Not an annotated struct of equal lengths: every part has a length of its own.
    """

    key: Array
    value: Array
    tags: TokenTags | None


def attend_to_parts(
    query: Float[Array, "B Q N H"],
    parts: Sequence[KeyPart],
    query_tags: TokenTags | None = None,
) -> Float[Array, "B Q N H"]:
    """Returns `attend` over the keys of all parts together, without joining them.

    One softmax over all of them, by a common peak and a common total. While decoding,
    the image's part is large and never changes: joined to the text's, it would be
    copied for every token. Beyond `LONGEST_PLAIN` the parts are joined after all.
    """
    parts = [part for part in parts if part.key.shape[1] > 0]
    keys = sum(part.key.shape[1] for part in parts)
    if query.shape[1] * keys <= LONGEST_PLAIN:
        return _attend_plainly(query, parts, query_tags)
    key, value = (
        jnp.concatenate([part[field] for part in parts], axis=1) for field in (0, 1)
    )
    tags = None
    if query_tags is not None:
        tags = functools.reduce(TokenTags.concat, [part.tags for part in parts])
    return blockwise_attend(query, key, value, query_tags, tags)


def _attend_plainly(
    query: Float[Array, "B Q N H"],
    parts: Sequence[KeyPart],
    query_tags: TokenTags | None,
) -> Float[Array, "B Q N H"]:
    batch, length, num_heads, head_dim = query.shape
    num_kv_heads = parts[0].key.shape[2]
    groups = num_heads // num_kv_heads
    # The heads of a group are stacked along the queries, so that both products are
    # plain batched matmuls; scaling q is cheaper than scaling the scores.
    grouped = (query * head_dim**-0.5).reshape(
        batch, length, num_kv_heads, groups, head_dim
    )
    grouped = grouped.transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, num_kv_heads, groups * length, head_dim)
    scores = [_scores(grouped, part, query_tags) for part in parts]
    # Softmax with the division after the second product: H instead of M divisions a
    # row, and a backward pass four times as fast on a CPU (width 304, H = 32).
    peaks = [x.max(axis=-1, keepdims=True) for x in scores]
    peak = jax.lax.stop_gradient(functools.reduce(jnp.maximum, peaks))
    weights = [jnp.exp(x - peak) for x in scores]
    total = sum(x.sum(axis=-1, keepdims=True) for x in weights)
    mixed = sum(_mix(x, part.value) for x, part in zip(weights, parts, strict=True))
    mixed = (mixed / total).astype(parts[0].value.dtype)
    mixed = mixed.reshape(batch, num_kv_heads, groups, length, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _scores(
    grouped: Float[Array, "B K GQ H"], part: KeyPart, query_tags: TokenTags | None
) -> Float[Array, "B K GQ M"]:
    key = part.key.transpose(0, 2, 3, 1)
    scores = jnp.matmul(grouped, key, preferred_element_type=jnp.float32)
    if query_tags is None:
        return scores
    bias = mask_bias(query_tags, part.tags)[:, None, None]
    apart = scores.reshape(*scores.shape[:2], -1, *bias.shape[-2:])
    return (apart + bias).reshape(scores.shape)


def _mix(
    weights: Float[Array, "B K GQ M"], value: Float[Array, "B M K H"]
) -> Float[Array, "B K GQ H"]:
    weights, value = weights.astype(value.dtype), value.transpose(0, 2, 1, 3)
    return jnp.matmul(weights, value, preferred_element_type=jnp.float32)
