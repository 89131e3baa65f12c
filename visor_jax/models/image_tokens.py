"""From the projected patches of all crops to the image stream.

The host says by an index which patch stands in which slot; the device only gathers. For
two crops of four patches, the last one cut to its upper row and closed by a newline:

    patches  crop 0: 0 1 2 3   crop 1: 4 5 6 7   newline: 8
    index    0 1 2 3  4 5 8
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def gather_image_tokens(
    patches: Float[Array, "B C P D"],
    newline: Float[Array, "D"] | None,
    index: Int[Array, "B V"],
) -> Float[Array, "B V D"]:
    """Returns the image tokens; index C * P stands for the newline token."""
    flat = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    if newline is not None:
        row = jnp.broadcast_to(
            newline.astype(flat.dtype), (flat.shape[0], 1, flat.shape[-1])
        )
        flat = jnp.concatenate([flat, row], axis=1)
    return jnp.take_along_axis(flat, index[..., None], axis=1)
