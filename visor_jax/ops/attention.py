"""Grouped-query dot-product attention with the mask of `visor_jax.ops.masks`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.masks import TokenTags, visible

# Finite, so that a row without any visible key gives the mean of the values, not NaN.
_HIDDEN = -1e30


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
    batch, length, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[2]
    grouped = query.reshape(batch, length, num_kv_heads, -1, head_dim)
    scores = jnp.einsum(
        "bqkgh,bmkh->bkgqm", grouped, key, preferred_element_type=jnp.float32
    )
    scores = scores * head_dim**-0.5
    if query_tags is not None:
        seen = visible(query_tags, key_tags)
        scores = jnp.where(seen[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bkgqm,bmkh->bqkgh", weights, value)
    return mixed.reshape(batch, length, num_heads, head_dim)
