"""A convolution over the patches of a crop, all channels with all channels."""

import math

import jax
from jaxtyping import Array, Float


def patch_convolution(
    x: Float[Array, "*crops P D"], kernel: Float[Array, "side side D F"]
) -> Float[Array, "*crops P F"]:
    """Returns the convolution of every crop's grid of patches, of the same size.

    Row by row there are as many patches as columns; beyond a crop's edge are zeros, so
    that what a crop makes depends on no other.

    kernel: its side is odd.
    """
    *crops, patches, width = x.shape
    side = math.isqrt(patches)
    found = jax.lax.conv_general_dilated(
        x.reshape(-1, side, side, width),
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return found.reshape(*crops, patches, -1)
