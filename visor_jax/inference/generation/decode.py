"""Writes the answer token by token against the cache: at once, or as a stream.

Writing ends when every row has written an end token or the room is used up. A row that
is finished writes padding:

    eos = 1, pad = 0      row 0   7 4 1 0 0
                          row 1   5 5 2 8 1
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.budget import Budget
from visor_jax.data.prompts.stop_tokens import EndTokens, end_tokens
from visor_jax.inference.generation.prefill import Prefilled
from visor_jax.inference.sampling import GREEDY, Sampling, choose
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any


@flax.struct.dataclass
class _Rules:
    """eos_ids: any of them ends a row; a negative one never does."""

    eos_ids: Int[Array, "A"]
    pad_id: Int[Array, ""]
    row_keys: Key[Array, "B"] | None
    sampling: Sampling = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class _Answers:
    """The answers of a batch between two steps.

    step: tokens written so far, of which the cache lacks the last one. newest,
    positions, segments: (B,) that last one. used: (B, W) tokens that a repetition
    penalty is for, None without one.
    """

    step: Int[Array, ""]
    newest: Int[Array, "B"]
    positions: Int[Array, "B"]
    segments: Int[Array, "B"]
    finished: Bool[Array, "B"]
    used: Bool[Array, "B W"] | None
    cache: KVCache


def decode(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    budget: Budget,
    *,
    max_new_tokens: int,
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling = GREEDY,
    row_keys: Key[Array, "B"] | None = None,
) -> Int[Array, "B N"]:
    """Returns the N = `max_new_tokens` tokens that follow each prompt.

    The end token is part of the answer. One program per budget, shapes and sampling,
    for every N that there is room for.

    Args:
      budget: the one that the prompts were prefilled with.
      eos_id: the token or tokens that end a row; a negative number never does.
      row_keys: one random key per row; needed unless sampling is greedy.

    Raises:
      ValueError: for N below 1 or beyond the room in the cache, or missing keys.
    """
    rules = _rules(prefilled, max_new_tokens, eos_id, pad_id, sampling, row_keys)
    gates = budget.gates(model.config.plan)
    tokens = _decode(
        params, prefilled, rules, np.int32(max_new_tokens), model=model, gates=gates
    )
    return tokens[:, :max_new_tokens]


def decode_stream(
    model: VLM,
    params: Params,
    prefilled: Prefilled,
    budget: Budget,
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
    rules = _rules(prefilled, max_new_tokens, eos_id, pad_id, sampling, row_keys)
    gates = budget.gates(model.config.plan)
    advance = functools.partial(_advance, params, rules, model=model, gates=gates)
    return _tokens_of(_first(prefilled, rules), advance, max_new_tokens)


def _tokens_of(
    answers: _Answers, advance: Any, count: int
) -> Iterator[Int[np.ndarray, "B"]]:
    for left in reversed(range(count)):
        newest, finished = jax.device_get((answers.newest, answers.finished))
        last = left == 0 or bool(finished.all())
        if not last:
            # Started before the token is handed out: the device works meanwhile.
            answers = advance(answers)
        yield newest
        if last:
            return


def _rules(
    prefilled: Prefilled,
    max_new_tokens: int,
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling,
    row_keys: Key[Array, "B"] | None,
) -> _Rules:
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
    return _Rules(
        eos_ids=jnp.asarray(end_tokens(eos_id), jnp.int32),
        pad_id=jnp.asarray(pad_id, jnp.int32),
        row_keys=None if sampling.is_greedy else row_keys,
        sampling=sampling,
    )


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def _decode(
    params: Params,
    prefilled: Prefilled,
    rules: _Rules,
    count: Int[Array, ""],
    *,
    model: VLM,
    gates: tuple[bool, ...],
) -> Int[Array, "B N"]:
    """Returns `count` tokens, and padding up to what there is room for."""

    def advance(state: tuple[_Answers, Array]) -> tuple[_Answers, Array]:
        answers, tokens = state
        answers = _advance(params, rules, answers, model=model, gates=gates)
        return answers, tokens.at[:, answers.step - 1].set(answers.newest)

    def goes_on(state: tuple[_Answers, Array]) -> Bool[Array, ""]:
        answers, _ = state
        return (answers.step < count) & ~answers.finished.all()

    answers = _first(prefilled, rules)
    room = prefilled.spare + 1
    tokens = jnp.full((answers.newest.shape[0], room), rules.pad_id, jnp.int32)
    tokens = tokens.at[:, 0].set(answers.newest)
    if room == 1:
        return tokens  # The prefill said it all: no decoder in the program.
    return jax.lax.while_loop(goes_on, advance, (answers, tokens))[1]


@jax.jit
def _first(prefilled: Prefilled, rules: _Rules) -> _Answers:
    """Returns the answers after their first token."""
    rows, vocabulary = prefilled.logits.shape
    used = None
    if rules.sampling.needs_used:
        prompt = jnp.where(prefilled.prompt < 0, vocabulary, prefilled.prompt)
        used = jnp.zeros((rows, vocabulary), bool)
        # Padding lies outside and is dropped.
        used = used.at[jnp.arange(rows)[:, None], prompt].set(True, mode="drop")
        used = used.at[:, jnp.asarray(rules.sampling.also_used, int)].set(True)
    before = _Answers(
        step=jnp.int32(0),
        newest=jnp.full(rows, rules.pad_id, jnp.int32),
        positions=prefilled.positions - 1,
        segments=prefilled.segments,
        finished=jnp.zeros(rows, bool),
        used=used,
        cache=prefilled.cache,
    )
    return _with_token(before, prefilled.logits, rules)


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def _advance(
    params: Params,
    rules: _Rules,
    answers: _Answers,
    *,
    model: VLM,
    gates: tuple[bool, ...],
) -> _Answers:
    """Returns the answers with one more token."""
    tags = TokenTags(
        order=answers.positions[:, None],
        segments=answers.segments[:, None],
        valid=~answers.finished[:, None],
    )
    new = (answers.newest[:, None], tags, answers.cache, gates)
    logits, cache = model.apply({"params": params}, *new, method=VLM.decode)
    return _with_token(answers.replace(cache=cache), logits[:, 0], rules)


def _with_token(
    answers: _Answers, logits: Float[Array, "B W"], rules: _Rules
) -> _Answers:
    keys = rules.row_keys
    if keys is not None:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, answers.step)
    chosen = choose(logits, rules.sampling, keys, answers.used)
    chosen = jnp.where(answers.finished, rules.pad_id, chosen)
    ends = (chosen[:, None] == rules.eos_ids).any(axis=-1)
    used = answers.used
    if used is not None:
        used = used.at[jnp.arange(chosen.shape[0]), chosen].set(True)
    return answers.replace(
        step=answers.step + 1,
        newest=chosen,
        positions=answers.positions + 1,
        finished=answers.finished | ends,
        used=used,
    )


def answers(
    tokens: Int[Array, "B N"] | Int[np.ndarray, "B N"], eos_id: EndTokens
) -> list[list[int]]:
    """Returns each row's tokens up to its end token, which is left out."""
    ends = set(end_tokens(eos_id))
    cut = []
    for row in np.asarray(tokens).tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        cut.append(row[:stop])
    return cut
