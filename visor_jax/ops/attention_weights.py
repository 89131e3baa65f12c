"""The attention of a few tokens as numbers, for whoever wants to look at it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import HIDDEN, TokenTags, visible


def attention_weights(
    query: Float[Array, "B R N H"], parts: Sequence[KeyPart], query_tags: TokenTags
) -> Float[Array, "B R M"]:
    """Returns the softmax over the keys of all parts, averaged over heads; float32.

    For a few queries: R x M numbers a head are written down, as `ops.attention` never
    does. A query that sees no key has zeros.
    """
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
    return jnp.where(seen, weights, 0).mean(axis=(1, 2))
