"""What one step of each program of `tags_pallas` computes, from blocks in memory.

Arguments are Pallas references: the table, the blocks of the inputs, those of the
results, and scratch memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from visor_jax.ops.kernels.block_table import Walk
from visor_jax.ops.masks import HIDDEN

# Axes that products sum over: a matrix product, and with left or right transposed.
_PRODUCT, _LEFT_T, _RIGHT_T = (1, 0), (0, 0), (1, 1)


def forward(
    *references: Any,
    walk: Walk,
) -> None:
    """Adds a block of keys to the running softmax of a block of queries."""
    table, query, key, value, asked, seen, *rest = references
    out, log_total, peak, total, mixed = rest
    inner = pl.program_id(3)

    def begin() -> None:
        peak[...] = jnp.full_like(peak, HIDDEN)
        total[...] = jnp.zeros_like(total)
        mixed[...] = jnp.zeros_like(mixed)

    def add() -> None:
        scores = _scores(query, key, asked, seen)
        before = peak[...]
        now = jnp.maximum(before, scores.max(axis=0, keepdims=True))
        weights = jnp.exp(scores - now)
        shrink = jnp.exp(before - now)
        values = value[0, 0]
        peak[...] = now
        total[...] = total[...] * shrink + weights.sum(axis=0, keepdims=True)
        added = _product(values, weights.astype(values.dtype), _PRODUCT)
        mixed[...] = mixed[...] * shrink + added

    def end() -> None:
        sees = peak[...] > HIDDEN / 2
        whole = jnp.where(sees, total[...], 1)
        # Sums of a query that sees nothing are of no meaning: zeros, and no gradient.
        out[0, 0] = jnp.where(sees, mixed[...] / whole, 0).astype(out.dtype)
        log_total[0, 0] = jnp.where(sees, peak[...] + jnp.log(whole), -HIDDEN)

    at = walk.at(table, pl.program_id(0), pl.program_id(2), inner)
    _in_turn(inner == 0, begin, at.meet, add, inner == walk.inner - 1, end)


def d_query(*references: Any, walk: Walk) -> None:
    """Adds what a block of keys gives to the gradient of a block of queries."""
    table, *inputs, out, gradient = references
    inner = pl.program_id(3)

    def begin() -> None:
        gradient[...] = jnp.zeros_like(gradient)

    def add() -> None:
        _, d_scores = _weights_and_gradient(*inputs)
        gradient[...] += _product(inputs[1][0, 0], d_scores, _PRODUCT)

    def end() -> None:
        out[0, 0] = gradient[...].astype(out.dtype)

    at = walk.at(table, pl.program_id(0), pl.program_id(2), inner)
    _in_turn(inner == 0, begin, at.meet, add, inner == walk.inner - 1, end)


def d_keys(*references: Any, walk: Walk, group: int) -> None:
    """Adds what a block of queries gives to the gradients of a block of keys."""
    table, *inputs, d_key, d_value, of_key, of_value = references
    inner, head = pl.program_id(3), pl.program_id(4)

    def begin() -> None:
        of_key[...] = jnp.zeros_like(of_key)
        of_value[...] = jnp.zeros_like(of_value)

    def add() -> None:
        query, d_mixed = inputs[0][0, 0], inputs[-1][0, 0]
        weights, d_scores = _weights_and_gradient(*inputs)
        of_key[...] += _product(query, d_scores, _RIGHT_T)
        of_value[...] += _product(d_mixed, weights, _RIGHT_T)

    def end() -> None:
        d_key[0, 0] = of_key[...].astype(d_key.dtype)
        d_value[0, 0] = of_value[...].astype(d_value.dtype)

    at = walk.at(table, pl.program_id(0), pl.program_id(2), inner)
    first = (inner == 0) & (head == 0)
    last = (inner == walk.inner - 1) & (head == group - 1)
    _in_turn(first, begin, at.meet, add, last, end)


def _in_turn(
    first: Any, begin: Callable, meet: Any, add: Callable, last: Any, end: Callable
) -> None:
    pl.when(first)(begin)
    pl.when(meet)(add)
    pl.when(last)(end)


def _weights_and_gradient(
    query: Any,
    key: Any,
    value: Any,
    asked: Any,
    seen: Any,
    log_total: Any,
    shared: Any,
    d_mixed: Any,
) -> tuple[Float[Array, "M Q"], Float[Array, "M Q"]]:
    """Returns the weights of a pair of blocks and the gradient of their scores."""
    scores = _scores(query, key, asked, seen)
    weights = jnp.exp(scores - log_total[0, 0])
    d_weights = _product(value[0, 0], d_mixed[0, 0], _LEFT_T)
    d_scores = weights * (d_weights - shared[0, 0])
    dtype = query.dtype
    return weights.astype(dtype), d_scores.astype(dtype)


def _scores(query: Any, key: Any, asked: Any, seen: Any) -> Float[Array, "M Q"]:
    scores = _product(key[0, 0], query[0, 0], _LEFT_T)
    return jnp.where(_visible(asked[0], seen[0]), scores, HIDDEN)


def _visible(asked: Int[Array, "2 Q"], seen: Int[Array, "2 M"]) -> Bool[Array, "M Q"]:
    """Returns the rule of `visor_jax.ops.masks`, on the marks of `block_table`."""
    order, segment = asked[0][None], asked[1][None]
    key_order, key_segment = seen[0][:, None], seen[1][:, None]
    mine = (key_segment == 0) | (key_segment == segment)
    return (key_order <= order) & mine


def _product(left: Array, right: Array, over: tuple[int, int]) -> Array:
    """Returns the product in float32, summed over these axes of left and right."""
    axes = (over[:1], over[1:])
    return jax.lax.dot_general(
        left, right, (axes, ((), ())), preferred_element_type=jnp.float32
    )
