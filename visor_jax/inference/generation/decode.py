"""Writes the answers to prefilled prompts: at once, or as a stream.

Writing ends when every row has written an end token or the room is used up. A row that
is finished gives padding (`decode_step`). However tokens are chosen and however many,
there are two programs at most for prompts of one shape: one that takes the likeliest
token of every row and knows nothing else, and one for everything else.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.data.prompts.stop_tokens import EndTokens
from visor_jax.inference.generation.decode_step import (
    DecodeState,
    Rules,
    step,
    used_tokens,
    with_token,
)
from visor_jax.inference.generation.prefill import Prefilled
from visor_jax.inference.sampling import RowSampling, also_used
from visor_jax.models.vlm import VLM
from visor_jax.sharding.programs import mesh_jit

Params = Any


def decode(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Int[Array, "B U"]:
    """Returns the `max_new_tokens` new tokens that follow each prompt.

    The end token is part of the answer, padding follows it.

    Args:
      max_new_tokens: at most so many, of all rows or of each. U is the largest.
      eos_id: the token or tokens that end a row; a negative number never does.
      sampling: of all rows or of each.
      row_keys: one random key per row; needed unless sampling is greedy.

    Raises:
      ValueError: for no token or more than the cache has room for, missing keys, or as
        many settings as there are no rows.
    """
    begin = _beginning(prefilled, max_new_tokens, eos_id, pad_id, sampling, row_keys)
    tokens = _decode(params, prefilled, begin, model=model)
    return _first_columns(tokens, count=int(begin.limit.max()))


def decode_scored(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> tuple[Int[Array, "B U"], Float[Array, "B U"]]:
    """Returns what `decode` does, and the log-probability of each token, float32.

    It is that of the network's own logits, whatever the sampling; what stands behind an
    answer has none (0). `confidence` makes one number of an answer's. Arguments and
    errors are those of `decode`.
    """
    begin = _beginning(prefilled, max_new_tokens, eos_id, pad_id, sampling, row_keys)
    begin, count = begin.replace(is_scored=True), int(begin.limit.max())
    tokens, log_probs = _decode_scored(params, prefilled, begin, model=model)
    return (
        _first_columns(tokens, count=count),
        _first_columns(log_probs, count=count),
    )


def decode_stream(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Iterator[Int[np.ndarray, "B"]]:
    """Yields the tokens of `decode` as they are written, (B,) a step.

    Ends with the last row; a row that is finished before gives padding. Arguments and
    errors are those of `decode`; errors are raised here, before the first token is
    asked for.
    """
    begin = _beginning(prefilled, max_new_tokens, eos_id, pad_id, sampling, row_keys)
    state = _begin(prefilled, begin)
    return _tokens_of(model, params, state, begin.rules)


def _tokens_of(
    model: VLM, params: Params, state: DecodeState, rules: Rules
) -> Iterator[Int[np.ndarray, "B"]]:
    newest, finished = jax.device_get((state.newest, state.finished))
    # The first one does not wait for the others' program, which may yet be compiled.
    yield newest
    is_told = True
    while not finished.all():
        # Started before the token is handed out: the device works meanwhile.
        state = _step(params, state, rules, model=model)
        if not is_told:
            yield newest
        newest, finished = jax.device_get((state.newest, state.finished))
        is_told = False
    if not is_told:
        yield newest


@flax.struct.dataclass
class _Beginning:
    """What is asked of each row, checked.

    also: used tokens beside those of the prompt. sampling, keys, also: all None where
    every row takes the likeliest token. is_scored: whether log-probabilities are asked
    for.
    """

    rules: Rules
    limit: Int[Array, "B"]
    sampling: RowSampling | None
    keys: Key[Array, "B"] | None
    also: Int[Array, "B A"] | None
    is_scored: bool = flax.struct.field(pytree_node=False, default=False)


def _beginning(
    prefilled: Prefilled,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling],
    row_keys: Key[Array, "B"] | None,
) -> _Beginning:
    """Returns what is asked of each row. Raises ValueError as `decode`."""
    rows, vocabulary = prefilled.logits.shape
    limit = _of_rows("max_new_tokens", max_new_tokens, rows)
    settings = _of_rows("sampling", sampling, rows)
    most = prefilled.spare + 1
    if not 1 <= min(limit) <= max(limit) <= most:
        raise ValueError(
            f"{max_new_tokens=} must lie in 1..{most}: prefill with more spare."
        )
    drawing = [each for each in settings if not each.is_greedy]
    if row_keys is None and drawing:
        raise ValueError(f"{drawing[0]} draws at random: give it a key.")
    also = {token for each in settings for token in each.also_used}
    if not all(0 <= token < vocabulary for token in (*also, pad_id)):
        raise ValueError(
            f"{pad_id=} and also_used={tuple(sorted(also))} must lie in the vocabulary "
            f"of {vocabulary} tokens."
        )
    rules, limits = Rules.of(eos_id, pad_id), np.array(limit, np.int32)
    if not drawing and not any(each.needs_used for each in settings):
        return _Beginning(rules, limits, None, None, None)
    if row_keys is None:
        # Nobody draws, only a penalty is asked for.
        row_keys = jax.random.split(jax.random.key(0), rows)
    longest = max(len(each.also_used) for each in settings)
    # A power of two, so as few programs.
    room = 1 << (longest - 1).bit_length() if longest else 0
    also_of_rows = also_used(settings, room)
    return _Beginning(rules, limits, RowSampling.of(settings), row_keys, also_of_rows)


def _of_rows(name: str, given: Any, rows: int) -> list[Any]:
    """Returns what is given for each row. Raises ValueError for another number."""
    if not isinstance(given, Sequence | np.ndarray):
        return [given] * rows
    if len(given) != rows:
        raise ValueError(f"{rows} prompts need one {name} or {rows}, got {len(given)}.")
    return list(given)


@mesh_jit(static_argnames=("model",))
def _decode(
    params: Params, prefilled: Prefilled, begin: _Beginning, *, model: VLM
) -> Int[Array, "B U"]:
    """Returns up to `limit` tokens, and padding up to what there is room for."""
    return _finished(model, params, prefilled, begin).written


@mesh_jit(static_argnames=("model",))
def _decode_scored(
    params: Params, prefilled: Prefilled, begin: _Beginning, *, model: VLM
) -> tuple[Int[Array, "B U"], Float[Array, "B U"]]:
    """Returns what `_decode` does, and the log-probabilities; a program of its own."""
    state = _finished(model, params, prefilled, begin)
    return state.written, state.log_probs


def _finished(
    model: VLM, params: Params, prefilled: Prefilled, begin: _Beginning
) -> DecodeState:
    """Returns the answers when all of them are written."""

    def goes_on(state: DecodeState) -> Bool[Array, ""]:
        return ~state.finished.all()

    state = _begun(prefilled, begin)
    if prefilled.spare == 0:
        return state  # The prefill said it all: no decoder in the program.
    advance = functools.partial(step, model, params, rules=begin.rules)
    return jax.lax.while_loop(goes_on, advance, state)


@mesh_jit(static_argnames=("count",))
def _first_columns(values: Array, *, count: int) -> Array:
    """Returns (B, count) of (B, V)."""
    return values[:, :count]


@mesh_jit()
def _begin(prefilled: Prefilled, begin: _Beginning) -> DecodeState:
    """Returns the answers after their first token; a program of its own."""
    return _begun(prefilled, begin)


def _begun(prefilled: Prefilled, begin: _Beginning) -> DecodeState:
    """Returns the answers after their first token."""
    (rows, vocabulary), rules = prefilled.logits.shape, begin.rules
    ends = prefilled.ends
    used = None
    if begin.also is not None:
        used = used_tokens(ends.prompt, jnp.asarray(begin.also), vocabulary)
    log_probs = None
    if begin.is_scored:
        log_probs = jnp.zeros((rows, prefilled.spare + 1), jnp.float32)
    nothing = DecodeState(
        newest=jnp.full(rows, rules.pad_id, jnp.int32),
        order=ends.order - 1,
        segments=ends.segments,
        count=jnp.zeros(rows, jnp.int32),
        limit=jnp.asarray(begin.limit),
        finished=jnp.zeros(rows, bool),
        written=jnp.full((rows, prefilled.spare + 1), rules.pad_id, jnp.int32),
        sampling=begin.sampling,
        keys=begin.keys,
        used=used,
        cache=prefilled.cache,
        gates=prefilled.gates,
        log_probs=log_probs,
    )
    return with_token(nothing, prefilled.logits, ~nothing.finished, rules)


@mesh_jit(static_argnames=("model",))
def _step(
    params: Params, state: DecodeState, rules: Rules, *, model: VLM
) -> DecodeState:
    """Returns the answers with one more token; a program of its own."""
    return step(model, params, state, rules)
