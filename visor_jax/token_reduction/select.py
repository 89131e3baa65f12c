"""Choosing some of many tokens with static shapes: pure functions on the last axis.

Everywhere: `there` says which of the P candidates exist, counts may differ from row to
row, and of equal ones the lower index comes first.

    scores  .1 .7 .7 .2   there  1 1 1 1   ranks  3 0 1 2   top 2:  0 1 1 0
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def ranks(
    scores: Float[Array, "*rows P"], there: Bool[Array, "*rows P"]
) -> Int[Array, "*rows P"]:
    """Returns each candidate's place by descending score; who is not there is last."""
    order = jnp.argsort(-jnp.where(there, scores, -jnp.inf), axis=-1, stable=True)
    return jnp.argsort(order, axis=-1)


def top(
    scores: Float[Array, "*rows P"],
    there: Bool[Array, "*rows P"],
    count: Int[Array, "*rows"],
) -> Bool[Array, "*rows P"]:
    """Returns the `count` candidates of each row with the highest scores."""
    return there & (ranks(scores, there) < count[..., None])


def evenly_spaced(
    there: Bool[Array, "*rows P"], count: Int[Array, "*rows"]
) -> Bool[Array, "*rows P"]:
    """Returns the candidates 0, n / count, 2 n / count, ... of the n that are there.

    Rounded down; all of them if count is n or more.
    """
    place, total = _places(there), there.sum(axis=-1, keepdims=True)
    count = jnp.minimum(count[..., None], total)
    step = -(-place * count // jnp.maximum(total, 1))
    return there & (step < count) & (step * total // jnp.maximum(count, 1) == place)


def every(
    there: Bool[Array, "*rows P"], step: Int[Array, "*rows"], count: Int[Array, "*rows"]
) -> Bool[Array, "*rows P"]:
    """Returns the candidates 0, step, 2 step, ... of those there, `count` at most."""
    place, step = _places(there), step[..., None]
    return there & (place % step == 0) & (place // step < count[..., None])


def indices_of(
    chosen: Bool[Array, "*rows P"], most: int
) -> tuple[Int[Array, "*rows most"], Bool[Array, "*rows most"]]:
    """Returns the first `most` chosen indices, ascending, and which of them exist."""
    index = jnp.argsort(~chosen, axis=-1, stable=True)[..., :most]
    return index, jnp.take_along_axis(chosen, index, axis=-1)


def one_by_one(
    first: Float[Array, "*rows P"],
    start: Float[Array, "*rows P"],
    cost_of: Callable[[Int[Array, "*rows"]], Float[Array, "*rows P"]],
    combine: Callable[[Array, Array], Array],
    there: Bool[Array, "*rows P"],
    count: Int[Array, "*rows"],
    most: int,
) -> Bool[Array, "*rows P"]:
    """Returns a greedy choice: each time the candidate of lowest cost is added.

    Args:
      first: costs by which the first one is chosen. start: costs before any choice.
      cost_of: what a chosen candidate makes each of the others cost; one row of a
        matrix of pairs, which is never written down as a whole.
      combine: of the costs so far and those of `cost_of`: a sum, or the larger one.
      most: a bound of all counts, known beforehand.
    """
    if most == 0:
        return jnp.zeros_like(there)

    def add(step: Array, cost: Array, chosen: Array) -> tuple[Array, Array]:
        index = jnp.argmin(jnp.where(there & ~chosen, cost, jnp.inf), axis=-1)
        new = jax.nn.one_hot(index, there.shape[-1], dtype=bool)
        return index, chosen | (new & there & (step < count)[..., None])

    index, chosen = add(jnp.zeros((), jnp.int32), first, jnp.zeros_like(there))

    def body(step: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        cost, index, chosen = state
        cost = combine(cost, cost_of(index))
        return cost, *add(step, cost, chosen)

    return jax.lax.fori_loop(1, most, body, (start, index, chosen))[2]


def unit(features: Float[Array, "*rows P E"]) -> Float[Array, "*rows P E"]:
    """Returns float32 vectors of length 1; a zero stays zero."""
    wide = features.astype(jnp.float32)
    squares = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return wide * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def likeness(
    one: Float[Array, "*rows Q E"], other: Float[Array, "*rows P E"]
) -> Float[Array, "*rows Q P"]:
    """Returns the products of all pairs, in float32 on every platform."""
    return jnp.einsum("...qe,...pe->...qp", one, other, precision="highest")


def merge_into(
    features: Float[Array, "P E"],
    index: Int[Array, "n"],
    valid: Bool[Array, "n"],
    values: Float[Array, "n E"],
) -> Float[Array, "P E"]:
    """Returns the features with these values at the targets' own places."""
    # What is not valid is written behind the end, and so nowhere.
    index = jnp.where(valid, index, len(features))
    return features.at[index].set(values.astype(features.dtype), mode="drop")


def _places(there: Bool[Array, "*rows P"]) -> Int[Array, "*rows P"]:
    return jnp.cumsum(there, axis=-1, dtype=jnp.int32) - 1
