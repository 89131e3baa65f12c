"""The attention of a few tokens as numbers, for whoever wants to look at it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import HIDDEN, TokenTags, visible

# Rows of a map at a time, where all of them are asked for.
BLOCK = 128


def attention_weights(
    query: Float[Array, "B R N H"], parts: Sequence[KeyPart], query_tags: TokenTags
) -> Float[Array, "B R M"]:
    """Returns the softmax over the keys of all parts, averaged over heads; float32.

    For a few queries: R x M numbers a head are written down, as `ops.attention` never
    does. A query that sees no key has zeros.
    """
    return _grouped_weights(query, parts, query_tags).mean(axis=(1, 2))


def weights_by_head(
    query: Float[Array, "B R N H"], parts: Sequence[KeyPart], query_tags: TokenTags
) -> Float[Array, "B N R M"]:
    """Returns the same of every head by itself."""
    weights = _grouped_weights(query, parts, query_tags)
    return weights.reshape(len(weights), -1, *weights.shape[3:])


def over_blocks(
    function: Callable[[Any], Float[Array, "B block"]], rows: Any, length: int
) -> Float[Array, "B T"]:
    """Returns what a function makes of T rows, `BLOCK` of them at a time.

    rows: arrays (B, T, ...); zeros fill up the last block.
    """
    block = min(BLOCK, length)

    def split(x: Array) -> Array:
        padding = ((0, 0), (0, -length % block), *((0, 0),) * (x.ndim - 2))
        x = jnp.pad(x, padding)
        return x.reshape(len(x), -1, block, *x.shape[2:]).swapaxes(0, 1)

    found = jax.lax.map(function, jax.tree.map(split, rows)).swapaxes(0, 1)
    return found.reshape(len(found), -1)[:, :length]


def _grouped_weights(
    query: Float[Array, "B R N H"], parts: Sequence[KeyPart], query_tags: TokenTags
) -> Float[Array, "B K G R M"]:
    batch, rows, num_heads, head_dim = query.shape
    key = jnp.concatenate([part.key for part in parts], axis=1)
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, rows, kv_heads, num_heads // kv_heads, head_dim)
    scores = jnp.einsum(
        "brkgh,bmkh->bkgrm", grouped, key, preferred_element_type=jnp.float32
    )
    seen = jnp.concatenate([visible(query_tags, part.tags) for part in parts], axis=-1)
    seen = seen[:, None, None]
    scores = jnp.where(seen, scores * head_dim**-0.5, HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.where(seen, weights, 0)
