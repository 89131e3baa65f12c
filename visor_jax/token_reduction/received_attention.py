"""Scores of patches where there is no class token: the attention that each receives.

SigLIP has no CLS whose row of one attention map would rank the patches. What authors
and ports take instead is the mean over all queries and heads of the softmax attention
to a patch. That needs every row of the map, but never all at once: rows are added up
block by block, crop by crop.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.vision.crop_features import QueryKey

# Rows of a map at a time.
BLOCK = 128


def received_attention(
    pair: QueryKey, *, joined: bool = False, block: int = BLOCK
) -> Float[Array, "B C P"]:
    """Returns the attention that each patch receives in its crop; float32, sum 1.

    Args:
      joined: whether queries and keys of all heads are one head (as PruMerge has it).
      block: how many queries are looked at together.
    """
    query, key = pair.query, pair.key
    batch, _, patches, heads, width = query.shape
    if joined:
        query, key = (x.reshape(*x.shape[:3], 1, -1) for x in (query, key))
        heads, width = 1, heads * width
    block = min(block, patches)
    padding = -patches % block
    real = jnp.pad(jnp.ones(patches, jnp.float32), (0, padding)).reshape(-1, block)

    def of_crop(crop: tuple[Array, Array]) -> Array:
        query, key = crop
        query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
        blocks = query.reshape(batch, -1, block, heads, width).swapaxes(0, 1)

        def add(total: Array, rows: tuple[Array, Array]) -> tuple[Array, None]:
            scores = jnp.einsum(
                "bqnh,bmnh->bnqm", rows[0], key, preferred_element_type=jnp.float32
            )
            weights = jax.nn.softmax(scores * width**-0.5, axis=-1)
            return total + jnp.einsum("bnqm,q->bm", weights, rows[1]), None

        start = jnp.zeros((batch, patches), jnp.float32)
        return jax.lax.scan(add, start, (blocks, real))[0] / (heads * patches)

    crops_first = query.swapaxes(0, 1), key.swapaxes(0, 1)
    return jax.lax.map(of_crop, crops_first).swapaxes(0, 1)
