"""Depthwise 1-D convolution over a token sequence, or over what is left of one."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def depthwise_conv(
    x: Float[Array, "B V D"], kernel: Float[Array, "taps D"]
) -> Float[Array, "B V D"]:
    """Returns the sum over taps of kernel[tap] * x shifted by tap - taps // 2.

    Zero padding, same length, one filter per channel (`taps` odd). Written as shifted
    multiply-adds, which every backend fuses: a grouped convolution with one channel per
    group takes over ten times as long on a CPU, forward and backward.
    """
    taps, length = kernel.shape[0], x.shape[1]
    half = taps // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    kernel = kernel.astype(x.dtype)
    return sum(padded[:, i : i + length] * kernel[i] for i in range(taps))


def depthwise_conv_at(
    x: Float[Array, "B V D"],
    kernel: Float[Array, "taps D"],
    places: Int[Array, "B V"],
) -> Float[Array, "B V D"]:
    """Returns `depthwise_conv` over the whole sequence, at the tokens that are left.

    What is not left counts as 0. With three taps, where tokens 2 and 3 have gone:

        places    0      1      4      5
        sums      0 1    0 1    4 5    4 5      1 and 4 are no neighbours

    Args:
      places: of each token in the whole sequence, ascending among those that are not 0;
        tokens that are 0 (padding) may be anywhere.
    """
    taps, length = kernel.shape[0], x.shape[1]
    half = taps // 2
    # A row of zeros, for neighbours in memory that lie too far apart.
    table = jnp.pad(kernel.astype(x.dtype), ((0, 1), (0, 0)))
    edges = ((0, 0), (half, half))
    padded, at = jnp.pad(x, (*edges, (0, 0))), jnp.pad(places, edges)

    def part(shift: int) -> Float[Array, "B V D"]:
        # Of tokens up to `half` apart in the sequence none is farther off in memory.
        tap = at[:, shift : shift + length] - places + half
        tap = jnp.where((tap >= 0) & (tap < taps), tap, taps)
        return padded[:, shift : shift + length] * table[tap]

    return sum(part(shift) for shift in range(taps))
