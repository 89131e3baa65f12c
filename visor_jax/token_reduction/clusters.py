"""Density peaks: a few tokens that stand for many (DPC-kNN), with static shapes.

Tokens with close neighbours are dense; a centre is dense and far from whatever is
denser. Distances are divided by sqrt(D), the neighbours of a density are as many as
there are clusters, and the densest token counts as far off as any two tokens are. Each
token joins the nearest centre. Rows have their own numbers of tokens and of clusters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cluster_means(
    hidden: Float[Array, "B M D"],
    there: Bool[Array, "B M"],
    clusters: Int[Array, "B"],
    most: int,
) -> Float[Array, "B clusters D"]:
    """Returns the plain mean of every cluster's tokens, best centre first; float32.

    Means beyond a row's own number of clusters are zeros. Which token joins which
    cluster has no gradient.

    Args:
      there: which tokens exist. clusters: how many of a row, at most its tokens.
      most: static, at least all of `clusters`.
    """
    wide = hidden.astype(jnp.float32)
    distances = _distances(jax.lax.stop_gradient(wide))
    pairs = there[:, :, None] & there[:, None, :]
    density = _density(jnp.where(pairs, distances, jnp.inf), clusters)
    # What is not there is less dense than anything that is.
    density = jnp.where(there, density, -1.0)
    farthest = jnp.max(jnp.where(pairs, distances, 0), axis=(1, 2), keepdims=True)
    denser = pairs & (density[:, None, :] > density[:, :, None])
    separation = jnp.where(denser, distances, farthest).min(axis=2)
    worth = jnp.where(there, separation * density, -jnp.inf)
    centres = jnp.argsort(-worth, axis=1, stable=True)[:, :most]
    exists = jnp.arange(most) < clusters[:, None]
    to_centres = jnp.take_along_axis(distances, centres[:, None, :], axis=2)
    # A centre is its own, also where another token is the same as it.
    own = centres[:, None, :] == jnp.arange(there.shape[1])[None, :, None]
    to_centres = jnp.where(own, -1.0, to_centres)
    nearest = jnp.argmin(jnp.where(exists[:, None, :], to_centres, jnp.inf), axis=2)
    joined = jax.nn.one_hot(nearest, most) * there[..., None]
    total = jnp.einsum("bmc,bmd->bcd", joined, wide)
    return total / jnp.maximum(joined.sum(axis=1), 1)[..., None]


def cluster_flops(tokens: int, clusters: int, width: int) -> int:
    """Returns the FLOPs of the distances and of the means, of one row."""
    return 2 * tokens * tokens * width + 2 * tokens * clusters * width


def _distances(x: Float[Array, "B M D"]) -> Float[Array, "B M M"]:
    products = jnp.einsum("bmd,bnd->bmn", x, x)
    squares = jnp.sum(x * x, axis=-1)
    squared = squares[:, :, None] + squares[:, None, :] - 2 * products
    apart = ~jnp.eye(x.shape[1], dtype=bool)
    # Rounding must not bring a token away from itself.
    squared = jnp.where(apart, jnp.maximum(squared, 0), 0)
    return jnp.sqrt(squared / x.shape[-1])


def _density(
    distances: Float[Array, "B M M"], neighbours: Int[Array, "B"]
) -> Float[Array, "B M"]:
    """Returns exp(-mean squared distance of the nearest), oneself among them."""
    counted = jnp.arange(distances.shape[2]) < neighbours[:, None]
    nearest = jnp.sort(distances, axis=2)
    squares = jnp.where(counted[:, None, :], nearest**2, 0).sum(axis=2)
    return jnp.exp(-squares / jnp.maximum(neighbours, 1)[:, None])
