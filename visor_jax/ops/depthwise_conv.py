"""Depthwise 1-D convolution over a token sequence."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
