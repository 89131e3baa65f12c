"""A convolution over the patches of a crop, all channels with all channels."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.linear import flat_dot_general


def patch_convolution(
    x: Float[Array, "*crops P D"], kernel: Float[Array, "side side D F"]
) -> Float[Array, "*crops P F"]:
    """Returns the convolution of every crop's grid of patches, of the same size.

    Row by row there are as many patches as columns; beyond a crop's edge are zeros, so
    that what a crop makes depends on no other. One product, with the patches around
    each side by side.

    kernel: its side is odd.
    """
    *crops, patches, width = x.shape
    side, taps = math.isqrt(patches), kernel.shape[0]
    half = taps // 2
    grids = x.reshape(-1, side, side, width)
    padded = jnp.pad(grids, ((0, 0), (half, half), (half, half), (0, 0)))
    around = [
        padded[:, down : down + side, across : across + side]
        for down in range(taps)
        for across in range(taps)
    ]
    flat = kernel.astype(x.dtype).reshape(-1, kernel.shape[-1])
    found = flat_dot_general(jnp.concatenate(around, axis=-1), flat)
    return found.reshape(*crops, patches, -1)
