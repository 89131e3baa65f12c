"""From the projected patches of all crops to the image stream.

The host says by an index which patch makes which image token; the device only gathers.
Two crops of four patches, the last one cut to its upper row and closed by a newline:

    patches  crop 0: 0 1 2 3   crop 1: 4 5 6 7   newline: 8
    index    0 1 2 3  4 5 8

Where the host resizes a grid of patches, an image token is a weighted sum of several:

    index    [4 5 6 7]   weights  [1/4 1/4 1/4 1/4]   the mean of crop 1
"""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.ops.masks import TokenTags


@flax.struct.dataclass
class ImageTokens:
    """The image tokens of a batch before they are anywhere in a prompt.

    hidden: (B, V, D). kept: (B, V) which of the prompt's image tokens they are, and
    there: which of them exist; None for all of them, as the prompt has them. places:
    see `Batch.image_places`; None once a reducer has dropped some.
    """

    hidden: Float[Array, "B V D"]
    kept: Int[Array, "B V"] | None = None
    there: Bool[Array, "B V"] | None = None
    places: Int[Array, "B V"] | None = None

    def tags(self, prompt: TokenTags) -> TokenTags:
        """Returns the tags of these tokens, given those of all that a prompt has."""
        if self.kept is None:
            return prompt
        tags = prompt.take(self.kept)
        return tags.replace(valid=tags.valid & self.there)


def kept_tokens(
    hidden: Float[Array, "B V D"], keep: Bool[Array, "B V"], count: int
) -> ImageTokens:
    """Returns the first `count` tokens of each row that are to stay, in their order.

    Rows with fewer are filled up with tokens that are not there.
    """
    kept = jnp.argsort(~keep, axis=1, stable=True)[:, :count]
    hidden = jnp.take_along_axis(hidden, kept[..., None], axis=1)
    return ImageTokens(hidden, kept, jnp.take_along_axis(keep, kept, axis=1))


def gather_image_tokens(
    patches: Float[Array, "B C P D"],
    newline: Float[Array, "D"] | None,
    index: Int[Array, "B V *corners"],
    weights: Float[Array, "B V *corners"] | None = None,
) -> Float[Array, "B V D"]:
    """Returns the image tokens; index C * P stands for the newline token.

    Args:
      index: (B, V), or (B, V, corners) with weights of the same shape. The sum is made
        in float32.

    Raises:
      ValueError: if an index with corners comes without weights, or the reverse.
    """
    if (index.ndim == 3) != (weights is not None):
        raise ValueError(
            f"An image token index of shape {index.shape} needs "
            f"{'weights' if weights is None else 'no weights'}: only sums of patches, "
            "(B, V, corners), are weighted."
        )
    flat = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    if newline is not None:
        row = jnp.broadcast_to(
            newline.astype(flat.dtype), (flat.shape[0], 1, flat.shape[-1])
        )
        flat = jnp.concatenate([flat, row], axis=1)
    if weights is None:
        return jnp.take_along_axis(flat, index[..., None], axis=1)
    # One corner at a time: never more than two streams' worth of memory.
    total = jnp.zeros((), jnp.float32)
    for corner in range(index.shape[-1]):
        part = jnp.take_along_axis(flat, index[..., corner, None], axis=1)
        total += weights[..., corner, None] * part.astype(jnp.float32)
    return total.astype(flat.dtype)
