"""What methods share that add patches one by one, far from those chosen before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.token_reduction.select import likeness

# Whether budgets and distances are those of each crop, or of the image as a whole.
SCOPES = ("crop", "image")
# Which features are compared: those that the decoder would see, or the tower's own.
FEATURES = ("projected", "tower")
# Rows of a matrix of pairs at a time.
BLOCK = 128


def as_one_crop(array: Array) -> Array:
    """Returns (B, C, P, ...) as (B, 1, C * P, ...)."""
    return array.reshape(len(array), 1, -1, *array.shape[3:])


def alike(
    vectors: Float[Array, "B C P E"], index: Int[Array, "B C"]
) -> Float[Array, "B C P"]:
    """Returns each patch's product with that of its crop at the index."""
    chosen = jnp.take_along_axis(vectors, index[..., None, None], axis=2)
    return likeness(chosen, vectors)[..., 0, :]


def over_pairs(
    pairs_of: Callable[[Array], Array],
    reduce: Callable[[Array], Array],
    there: Bool[Array, "B C P"],
    nothing: float,
) -> Float[Array, "B C P"]:
    """Returns for each patch what it and the others make together; blocks of rows.

    Args:
      pairs_of: (n,) indices to (B, C, n, P) numbers of pairs. reduce: over the last
        axis, in which a patch itself and those not there are `nothing`.
    """
    patches = there.shape[2]
    block = min(BLOCK, patches)
    rows = jnp.arange(patches + -patches % block).reshape(-1, block)

    def of_block(index: Array) -> Array:
        # Rows behind the end are cut off below.
        index = jnp.minimum(index, patches - 1)
        others = there[:, :, None] & (jnp.arange(patches) != index[:, None])
        return reduce(jnp.where(others, pairs_of(index), nothing))

    found = jnp.moveaxis(jax.lax.map(of_block, rows), 0, 2)
    return found.reshape(*there.shape[:2], -1)[..., :patches]
