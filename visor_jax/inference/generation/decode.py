"""Writes the answers to prefilled prompts: at once, or as a stream.

Writing ends when every row has written an end token or the room is used up. A row that
is finished gives padding (`decode_step`).
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from visor_jax.data.prompts.stop_tokens import EndTokens
from visor_jax.inference.generation.decode_step import (
    DecodeState,
    Rules,
    step,
    used_tokens,
    with_token,
)
from visor_jax.inference.generation.prefill import Prefilled
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.models.vlm import VLM

Params = Any


def decode(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    *,
    max_new_tokens: int,
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Int[Array, "B U"]:
    """Returns the `max_new_tokens` new tokens that follow each prompt.

    The end token is part of the answer. One program per budget, shapes and sampling,
    for every number of tokens that there is room for.

    Args:
      eos_id: the token or tokens that end a row; a negative number never does.
      row_keys: one random key per row; needed unless sampling is greedy.

    Raises:
      ValueError: for no token or more than the cache has room for, or missing keys.
    """
    _check(prefilled, max_new_tokens, pad_id, sampling, row_keys)
    rules = Rules.of(eos_id, pad_id, sampling)
    # Where nothing is drawn, keys must not make a program of their own.
    row_keys = None if sampling.is_greedy else row_keys
    limit = np.int32(max_new_tokens)
    tokens = _decode(params, prefilled, rules, row_keys, limit, model=model)
    return tokens[:, :max_new_tokens]


def decode_stream(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    *,
    max_new_tokens: int,
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Iterator[Int[np.ndarray, "B"]]:
    """Yields the tokens of `decode` as they are written, (B,) a step.

    Ends with the last row; a row that is finished before gives padding. One program per
    budget, shapes and sampling, whatever `max_new_tokens` is. Arguments and errors are
    those of `decode`; errors are raised here, before the first token is asked for.
    """
    _check(prefilled, max_new_tokens, pad_id, sampling, row_keys)
    rules = Rules.of(eos_id, pad_id, sampling)
    # Where nothing is drawn, keys must not make a program of their own.
    row_keys = None if sampling.is_greedy else row_keys
    state = _begin(prefilled, rules, row_keys, np.int32(max_new_tokens))
    return _tokens_of(model, params, state, rules)


def _tokens_of(
    model: VLM, params: Params, state: DecodeState, rules: Rules
) -> Iterator[Int[np.ndarray, "B"]]:
    while True:
        newest, finished = jax.device_get((state.newest, state.finished))
        is_last = bool(finished.all())
        if not is_last:
            # Started before the token is handed out: the device works meanwhile.
            state = _step(params, state, rules, model=model)
        yield newest
        if is_last:
            return


def _check(
    prefilled: Prefilled,
    max_new_tokens: int,
    pad_id: int,
    sampling: Sampling,
    row_keys: Key[Array, "B"] | None,
) -> None:
    most = prefilled.spare + 1
    if not 1 <= max_new_tokens <= most:
        raise ValueError(
            f"{max_new_tokens=} must lie in 1..{most}: prefill with more spare."
        )
    if row_keys is None and not sampling.is_greedy:
        raise ValueError(f"{sampling} draws at random: give it a key.")
    vocabulary = prefilled.logits.shape[-1]
    if not all(0 <= token < vocabulary for token in (*sampling.also_used, pad_id)):
        raise ValueError(
            f"{pad_id=} and also_used={sampling.also_used} must lie in the vocabulary "
            f"of {vocabulary} tokens."
        )


@functools.partial(jax.jit, static_argnames="model")
def _decode(
    params: Params,
    prefilled: Prefilled,
    rules: Rules,
    row_keys: Key[Array, "B"] | None,
    limit: Int[Array, ""],
    *,
    model: VLM,
) -> Int[Array, "B U"]:
    """Returns up to `limit` tokens, and padding up to what there is room for."""

    def goes_on(state: DecodeState) -> Bool[Array, ""]:
        return ~state.finished.all()

    state = _begin(prefilled, rules, row_keys, limit)
    if prefilled.spare == 0:
        return state.written  # The prefill said it all: no decoder in the program.
    advance = functools.partial(step, model, params, rules=rules)
    return jax.lax.while_loop(goes_on, advance, state).written


@jax.jit
def _begin(
    prefilled: Prefilled,
    rules: Rules,
    row_keys: Key[Array, "B"] | None,
    limit: Int[Array, ""],
) -> DecodeState:
    """Returns the answers after their first token."""
    rows, vocabulary = prefilled.logits.shape
    sampling, used = rules.sampling, None
    if sampling.needs_used:
        used = used_tokens(prefilled.prompt, vocabulary, sampling)
    nothing = DecodeState(
        newest=jnp.full(rows, rules.pad_id, jnp.int32),
        order=prefilled.order - 1,
        segments=prefilled.segments,
        count=jnp.zeros(rows, jnp.int32),
        limit=jnp.full(rows, limit, jnp.int32),
        finished=jnp.zeros(rows, bool),
        written=jnp.full((rows, prefilled.spare + 1), rules.pad_id, jnp.int32),
        keys=row_keys,
        used=used,
        cache=prefilled.cache,
        gates=prefilled.gates,
    )
    return with_token(nothing, prefilled.logits, ~nothing.finished, rules)


@functools.partial(jax.jit, static_argnames="model")
def _step(
    params: Params, state: DecodeState, rules: Rules, *, model: VLM
) -> DecodeState:
    """Returns the answers with one more token; a program of its own."""
    return step(model, params, state, rules)
