"""Writes the answer token by token against the cache, as one compiled loop.

The loop ends when every row has written its end token or the room is used up. A row
that is finished writes padding:

    eos = 1, pad = 0      row 0   7 4 1 0 0
                          row 1   5 5 2 8 1
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.budget import Budget
from visor_jax.inference.prefill import Prefilled
from visor_jax.inference.sampling import GREEDY, Sampling, choose
from visor_jax.models.kv_cache import KVCache
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any


@flax.struct.dataclass
class _Loop:
    """step: tokens written so far, of which the cache lacks the last one."""

    step: Int[Array, ""]
    tokens: Int[Array, "B N"]
    newest: Int[Array, "B"]
    finished: Bool[Array, "B"]
    cache: KVCache


def decode(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    budget: Budget,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    sampling: Sampling = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Int[Array, "B N"]:
    """Returns the N = `max_new_tokens` tokens that follow each prompt.

    The end token is part of the answer. One program per budget, shapes, N and sampling.

    Args:
      budget: the one that the prompts were prefilled with.
      eos_id: ends a row; a negative number never does.
      row_keys: one random key per row; needed unless sampling is greedy.

    Raises:
      ValueError: for N below 1 or beyond the room in the cache, or missing keys.
    """
    most = prefilled.spare + 1
    if not 1 <= max_new_tokens <= most:
        raise ValueError(
            f"{max_new_tokens=} must lie in 1..{most}: prefill with more spare."
        )
    if row_keys is None and not sampling.is_greedy:
        raise ValueError(f"{sampling} draws at random: give it a key.")
    return _decode(
        params,
        prefilled,
        eos_id,
        pad_id,
        None if sampling.is_greedy else row_keys,
        model=model,
        gates=budget.gates(model.config.plan),
        count=max_new_tokens,
        sampling=sampling,
    )


@functools.partial(jax.jit, static_argnames=("model", "gates", "count", "sampling"))
def _decode(
    params: Params,
    prefilled: Prefilled,
    eos_id: Int[Array, ""],
    pad_id: Int[Array, ""],
    row_keys: Key[Array, "B"] | None,
    *,
    model: VLM,
    gates: tuple[bool, ...],
    count: int,
    sampling: Sampling,
) -> Int[Array, "B N"]:
    def write(logits: Float[Array, "B W"], loop: _Loop) -> _Loop:
        keys = _fold_in(row_keys, loop.step)
        chosen = jnp.where(loop.finished, pad_id, choose(logits, sampling, keys))
        return loop.replace(
            step=loop.step + 1,
            tokens=loop.tokens.at[:, loop.step].set(chosen),
            newest=chosen,
            finished=loop.finished | (chosen == eos_id),
        )

    def advance(loop: _Loop) -> _Loop:
        tags = TokenTags(
            positions=(prefilled.positions + loop.step - 1)[:, None],
            segments=prefilled.segments[:, None],
            valid=~loop.finished[:, None],
        )
        new = (loop.newest[:, None], tags, loop.cache, gates)
        logits, cache = model.apply({"params": params}, *new, method=VLM.decode)
        return write(logits[:, 0], loop.replace(cache=cache))

    loop = write(prefilled.logits, _start(prefilled, count, pad_id))
    if count == 1:
        return loop.tokens  # The prefill said it all: no decoder in the program.
    goes_on = functools.partial(_goes_on, count=count)
    return jax.lax.while_loop(goes_on, advance, loop).tokens


def _goes_on(loop: _Loop, count: int) -> Bool[Array, ""]:
    return (loop.step < count) & ~loop.finished.all()


def _start(prefilled: Prefilled, count: int, pad_id: Int[Array, ""]) -> _Loop:
    rows = prefilled.positions.shape[0]
    padding = jnp.full((rows, count), pad_id, jnp.int32)
    return _Loop(
        step=jnp.int32(0),
        tokens=padding,
        newest=padding[:, 0],
        finished=jnp.zeros(rows, bool),
        cache=prefilled.cache,
    )


def _fold_in(
    keys: Key[Array, "B"] | None, step: Int[Array, ""]
) -> Key[Array, "B"] | None:
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def answers(tokens: Int[Array, "B N"], eos_id: int) -> list[list[int]]:
    """Returns each row's tokens up to its end token, which is left out."""
    rows = np.asarray(tokens).tolist()
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]
