"""Linear centred kernel alignment of image states (Kornblith and others 2019).

    CKA(X, Y) = ||Y'X||^2 / (||X'X|| ||Y'Y||),  Frobenius norms, columns centred

1 where one is the other turned and scaled; about width / tokens for states that have
nothing in common. Products of features alone are formed, width by width, never of
tokens by tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def linear_cka(
    states: Sequence[Float[Array, "B V D"]], valid: Bool[Array, "B V"]
) -> Float[Array, "B S S"]:
    """Returns the similarity of every two states of each image; float32.

    NaN for an image without a token, or states that do not vary.

    Args:
      valid: tokens that count.
    """
    centred = jnp.stack([_centred(state, valid) for state in states])
    count = len(states)
    pairs = [(s, t) for s in range(count) for t in range(s + 1)]
    first, second = jnp.array(pairs).T

    def norm(pair: tuple[Array, Array]) -> Float[Array, "B"]:
        x, y = centred[pair[0]], centred[pair[1]]
        # The precision of a TPU's default would be that of bfloat16.
        product = jnp.einsum("bvd,bve->bde", y, x, precision="highest")
        return jnp.sum(jnp.square(product), axis=(1, 2))

    # One product after the other: never more than one pair's worth of memory.
    norms = jax.lax.map(norm, (first, second))
    square = jnp.zeros((count, count, *norms.shape[1:]))
    square = square.at[first, second].set(norms).at[second, first].set(norms)
    own = jnp.sqrt(jnp.diagonal(square, axis1=0, axis2=1))
    scale = own[:, :, None] * own[:, None, :]
    return jnp.where(scale > 0, jnp.moveaxis(square, -1, 0) / scale, jnp.nan)


def _centred(
    state: Float[Array, "B V D"], valid: Bool[Array, "B V"]
) -> Float[Array, "B V D"]:
    """Returns the states minus their mean over valid tokens, 0 at others."""
    state, there = state.astype(jnp.float32), valid[..., None]
    count = jnp.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = jnp.where(there, state, 0).sum(axis=1, keepdims=True) / count
    return jnp.where(there, state - mean, 0)
