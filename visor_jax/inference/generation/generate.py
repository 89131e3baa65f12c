"""From a batch of prompts to tokens, and how long that takes."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.data.prompts.stop_tokens import EndTokens
from visor_jax.inference.generation.decode import decode, decode_stream
from visor_jax.inference.generation.prefill import (
    Prefilled,
    check_context,
    check_prompts,
    prefill,
)
from visor_jax.models.vlm import VLM
from visor_jax.runtime.stopwatch import median_seconds

Params = Any
# No token has this id, so that decoding never ends early.
_NO_TOKEN = -1
_LEAST_ROOM = 8


def generate(
    model: VLM,
    params: Params,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    key: Key[Array, "*B"] | None = None,
) -> Int[Array, "B U"]:
    """Returns the `max_new_tokens` new tokens that follow each prompt of a batch.

    The end token is part of a row, padding follows it. What a row writes depends on
    nothing but itself, its settings and its key, and not on the side of its padding.

    Args:
      batch: one prompt per row, all answered in the same budget.
      max_new_tokens, sampling: of all rows, or of each.
      eos_id: the token or tokens that end a row; a negative number never does.
      key: for random sampling; every row and token gets a key of its own. Or (B,) keys,
        one per row: then a row draws the same wherever it stands.

    Raises:
      ValueError: for rows that are no prompts or do not fit into the context, a wrong
        budget, number of tokens or lack of a key.
    """
    prompts = prefilled(model, params, batch, budget, max_new_tokens)
    return decode(
        model,
        params,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        sampling=sampling,
        row_keys=None if key is None else keys_of_rows(key, batch.size),
    )


def stream(
    model: VLM,
    params: Params,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: EndTokens,
    pad_id: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    key: Key[Array, "*B"] | None = None,
) -> Iterator[Int[np.ndarray, "B"]]:
    """Yields what `generate` returns column by column, as the tokens are written.

    Ends with the last row; a row that is finished before gives padding. Arguments and
    errors are those of `generate`; errors are raised at the call. One program serves
    all steps after the first.
    """
    prompts = prefilled(model, params, batch, budget, max_new_tokens)
    return decode_stream(
        model,
        params,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        sampling=sampling,
        row_keys=None if key is None else keys_of_rows(key, batch.size),
    )


def room_for(max_new_tokens: int) -> int:
    """Returns for how many tokens to make room: a power of two, so as few programs.

    A single token needs no decoder at all.
    """
    if max_new_tokens == 1:
        return 1
    return max(_LEAST_ROOM, 1 << (max_new_tokens - 1).bit_length())


def spare_for(max_new_tokens: int | Sequence[int] | np.ndarray) -> int:
    """Returns the room that a cache needs behind the prompts for so long answers."""
    return room_for(int(np.max(max_new_tokens))) - 1


def keys_of_rows(key: Key[Array, "*B"], rows: int) -> Key[Array, "B"]:
    """Returns one key per row; row i of one key has the same in a batch of any size.

    Raises:
      ValueError: for neither one key nor `rows` keys.
    """
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))
    if key.shape != (rows,):
        raise ValueError(
            f"{rows} prompts need one key or {rows} keys, got keys of {key.shape}."
        )
    return key


def prefilled(
    model: VLM,
    params: Params,
    batch: Batch,
    budget: Budget,
    max_new_tokens: int | Sequence[int],
) -> Prefilled:
    """Returns the prompts, prefilled after a check, with room for their answers.

    Arguments and errors are those of `generate`.
    """
    limits = np.array(max_new_tokens, np.int64)
    if limits.min() < 1:
        raise ValueError(f"{max_new_tokens=} must be at least 1.")
    _check(model, batch, limits)
    return prefill(model, params, batch, budget, spare=spare_for(limits))


def _check(model: VLM, batch: Batch, limits: int | Int[np.ndarray, "*B"]) -> None:
    """Raises ValueError for rows that are no prompts or do not fit into the context."""
    if _is_on_this_host(batch.tokens):
        check_prompts(batch)
        check_context(batch, limits, model.config.decoder.max_positions)


def _is_on_this_host(array: np.ndarray | Array) -> bool:
    return isinstance(array, np.ndarray) or array.is_fully_addressable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds for a whole batch; compilation is not part of it.

    prefill: from the pixels to the first token's logits. per_token: each further token.
    """

    prefill: float
    per_token: float


def measure_latency(
    model: VLM,
    params: Params,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int,
    repeats: int = 3,
) -> Latency:
    """Returns medians over `repeats` greedy runs of at least two tokens each.

    Raises:
      ValueError: for rows that are no prompts or do not fit into the context.
    """
    count = max(max_new_tokens, 2)
    _check(model, batch, count)
    batch = jax.device_put(batch)

    def read() -> Prefilled:
        return prefill(model, params, batch, budget, spare=count - 1)

    prompts = read()

    def decoded() -> Array:
        return decode(
            model,
            params,
            prompts,
            max_new_tokens=count,
            eos_id=_NO_TOKEN,
            pad_id=0,
        )

    seconds = median_seconds({"prefill": read, "decode": decoded}, runs=repeats)
    return Latency(
        prefill=1000 * seconds["prefill"],
        per_token=1000 * seconds["decode"] / (count - 1),
    )
