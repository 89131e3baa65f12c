"""Attention that writes all scores down: the reference, and the fastest for few keys.

The keys come in parts, and no part is copied: one softmax over all of them, by a common
peak and a common total. While decoding, the image's part is large and never changes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.kernels.kernel import KeyPart, count_keys
from visor_jax.ops.masks import TokenTags, mask_bias

# Queries times keys up to which the plain form is used: 2 MiB of float32 scores for
# every head and sample. Beyond it the blockwise form is faster on a CPU, too (729 by
# 729, H = 72: half the time). FLOPs accounts are of the plain form; the blockwise one
# does the same products, less the blocks it skips, plus the padding of blocks.
LONGEST_PLAIN = 512 * 1024


class PlainKernel:
    """`plain_attend` up to `LONGEST_PLAIN`."""

    writes_scores = True

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns a reason where the scores would be too many; on any platform."""
        del platform
        queries, keys = query.shape[1], count_keys(parts)
        if queries * keys <= LONGEST_PLAIN:
            return None
        return (
            f"{queries} queries x {keys} keys are more than {LONGEST_PLAIN} scores to "
            "write down"
        )

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns `plain_attend`."""
        return plain_attend(query, parts, query_tags)


def plain_attend(
    query: Float[Array, "B Q N H"],
    parts: Sequence[KeyPart],
    query_tags: TokenTags | None = None,
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does, all scores in memory."""
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
