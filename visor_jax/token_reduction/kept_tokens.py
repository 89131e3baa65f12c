"""The image stream of the tokens that stay, where each row keeps a number of its own.

Shapes are those of the bucket, counts those of each row: a small image beside padding
keeps as many tokens as it would keep alone. Scores of one row, two of its four tokens
to stay (`select.top`), in room for three (`taken`):

    scores   .1 .4 .1 .2  pad pad
    chosen   .  x  .  x   .   .
    taken    1  3  -                the last one is not there (valid False)
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.masks import TokenTags


def taken(
    image: TokenStream, chosen: Bool[Array, "B V"], length: int
) -> tuple[TokenStream, Bool[Array, "B R"]]:
    """Returns the chosen tokens in their order, and which of them are there.

    Args:
      length: static; rows with fewer are filled up with tokens that are not valid.
    """
    indices = jnp.argsort(~chosen, axis=1, stable=True)[:, :length]
    there = jnp.take_along_axis(chosen, indices, axis=1)
    stream = image.take(indices)
    tags = stream.tags.replace(valid=stream.tags.valid & there)
    return stream.replace(tags=tags), there


def by_tokens(table: Sequence[int], first: TokenTags) -> Int[Array, "B"]:
    """Returns the table's entry for the number of image tokens of each row.

    Args:
      table: for 0, 1, 2, ... tokens, made on the host where numbers are exact.
      first: of the image as the first layer saw it.
    """
    tokens = first.valid.sum(axis=1, dtype=jnp.int32)
    return jnp.asarray(np.asarray(table, np.int32))[tokens]
