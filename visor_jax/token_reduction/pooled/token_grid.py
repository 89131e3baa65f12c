"""Where image tokens lie in their pictures, read off the packing.

The tiles behind a base view are one grid, as the host has stitched them; the base view,
an image of one crop and a frame of a video are each a grid of their own. Rows and
columns count those that have tokens, so that cut margins and resized grids are fine:

    crop 0   0 1     crops 1, 2   4 5 | 8  9      grid 0, 2 x 2; grid 1, 1 x 4, if the
             2 3                  . . | . .       lower row is padding
"""

import math

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from visor_jax.models.vision.crop_features import Packing


@flax.struct.dataclass
class TokenGrid:
    """The place of every token, and the sizes of all grids of an image.

    there: which tokens are patches, not newlines or padding. grid, row, column: of
    each. height, width: (B, G) in tokens, 0 for a grid without any.
    """

    there: Bool[Array, "B V"]
    grid: Int[Array, "B V"]
    row: Int[Array, "B V"]
    column: Int[Array, "B V"]
    height: Int[Array, "B G"]
    width: Int[Array, "B G"]

    @classmethod
    def of(cls, packing: Packing) -> "TokenGrid":
        """Returns the grids of a batch's images."""
        side = math.isqrt(packing.per_crop)
        there = packing.valid & ~packing.is_newline
        patch = jnp.where(there, packing.patch, 0)
        crop, place = patch // packing.per_crop, patch % packing.per_crop
        is_tile = packing.has_base[:, None] & (crop > 0)
        columns = jnp.maximum(packing.tile_grid[:, 1:], 1)
        tile = jnp.where(is_tile, crop - 1, 0)
        grid = jnp.where(packing.has_base[:, None], jnp.minimum(crop, 1), crop)
        row = place // side + tile // columns * side
        column = place % side + tile % columns * side
        sizes = packing.crops, packing.crops * side
        row, height = _ranked(grid, row, there, *sizes)
        column, width = _ranked(grid, column, there, *sizes)
        return cls(there, grid, row, column, height, width)


def _ranked(
    grid: Int[Array, "B V"],
    place: Int[Array, "B V"],
    there: Bool[Array, "B V"],
    grids: int,
    places: int,
) -> tuple[Int[Array, "B V"], Int[Array, "B G"]]:
    """Returns places without the gaps between them, and how many a grid has."""
    batch = jnp.arange(len(grid))[:, None]
    used = jnp.zeros((len(grid), grids, places), jnp.int32)
    used = used.at[batch, grid, place].max(there.astype(jnp.int32))
    rank = jnp.cumsum(used, axis=2, dtype=jnp.int32) - 1
    return jnp.maximum(rank[batch, grid, place], 0), used.sum(axis=2)
