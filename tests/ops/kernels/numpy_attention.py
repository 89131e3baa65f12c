"""Attention and its gradients in float64 NumPy, and tokens of every kind to try it on.

Written from the formulas, head by head; it shares no line with any kernel.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from visor_jax.ops.masks import TokenTags

BATCH = 2


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What the mask needs of some tokens, as (B, M) NumPy arrays."""

    order: np.ndarray
    segments: np.ndarray
    valid: np.ndarray

    def take(self, index: np.ndarray) -> "Tokens":
        """Returns the tokens of these indices (the same in every row)."""
        return Tokens(
            self.order[:, index], self.segments[:, index], self.valid[:, index]
        )

    @property
    def tags(self) -> TokenTags:
        return TokenTags(
            order=jnp.asarray(self.order),
            segments=jnp.asarray(self.segments),
            valid=jnp.asarray(self.valid),
        )


def mask_of(query: Tokens, key: Tokens) -> np.ndarray:
    """Returns (B, Q, M): valid, not after me, and of segment 0 or of mine."""
    mask = np.zeros((*query.order.shape, key.order.shape[1]), bool)
    for row, i in np.ndindex(query.order.shape):
        segments = key.segments[row]
        mine = (segments == 0) | (segments == query.segments[row, i])
        mask[row, i] = key.valid[row] & mine & (key.order[row] <= query.order[row, i])
    return mask


def attention(query, key, value, mask, d_out):
    """Returns the output and the gradients of query, key and value.

    Rows that see nothing give zeros. query: (B, Q, N, H); key, value: (B, M, K, H).
    """
    query, key, value, d_out = (
        np.asarray(x, np.float64) for x in (query, key, value, d_out)
    )
    out = np.zeros_like(query)
    d_query, d_key, d_value = (np.zeros_like(x) for x in (query, key, value))
    scale, group = query.shape[-1] ** -0.5, query.shape[2] // key.shape[2]
    for b, n in np.ndindex(query.shape[0], query.shape[2]):
        q, k, v = query[b, :, n], key[b, :, n // group], value[b, :, n // group]
        scores = np.where(mask[b], q @ k.T * scale, -np.inf)
        peak = np.max(scores, axis=1, keepdims=True, initial=-1e300)
        weights = np.exp(scores - peak)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        out[b, :, n] = weights @ v
        d_weights = d_out[b, :, n] @ v.T
        shared = (weights * d_weights).sum(axis=1, keepdims=True)
        d_scores = weights * (d_weights - shared) * scale
        d_query[b, :, n] = d_scores @ k
        d_key[b, :, n // group] += d_scores.T @ q
        d_value[b, :, n // group] += weights.T @ d_out[b, :, n]
    return out, (d_query, d_key, d_value)


def packed(rng: np.random.Generator, length: int) -> Tokens:
    """Returns shared and packed tokens in any order, 10 % of them invalid."""
    order = rng.permuted(np.tile(np.arange(length), (BATCH, 1)), axis=1)
    segments = rng.integers(0, 3, order.shape)
    return Tokens(order, segments, rng.random(order.shape) < 0.9)


def unpacked(rng: np.random.Generator, length: int) -> Tokens:
    """Returns tokens of segment 0 in any order, 10 % of them invalid."""
    tokens = packed(rng, length)
    return dataclasses.replace(tokens, segments=np.zeros_like(tokens.segments))


def around(rng: np.random.Generator, keys: Tokens, count: int) -> Tokens:
    """Returns packed tokens of another stream, before and behind all of these."""
    shape = (BATCH, count)
    after = rng.random(shape) < 0.7
    order = np.where(after, keys.order.max() + 1, -1 - count) + np.arange(count)
    return Tokens(order, rng.integers(0, 3, shape), rng.random(shape) < 0.9)


def padded_right(rng: np.random.Generator, length: int) -> Tokens:
    """Returns rows of several lengths, filled up behind."""
    order = np.tile(np.arange(length), (BATCH, 1))
    used = rng.integers(length // 2, length, (BATCH, 1))
    return Tokens(np.where(order < used, order, 0), 0 * order, order < used)


def padded_left(rng: np.random.Generator, length: int) -> Tokens:
    """Returns rows of several lengths, filled up in front."""
    order = np.tile(np.arange(length), (BATCH, 1))
    free = rng.integers(1, length // 2, (BATCH, 1))
    valid = order >= free
    return Tokens(np.where(valid, order - free, 0), 0 * order, valid)
