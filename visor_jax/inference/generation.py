"""From a batch of prompts to tokens, and how long that takes."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.inference.decode import decode
from visor_jax.inference.prefill import check_prompts, prefill
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.models.vlm import VLM

Params = Any
# No token has this id, so that decoding never ends early.
_NO_TOKEN = -1


def generate(
    model: VLM,
    params: Params,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    sampling: Sampling = GREEDY,
    key: Key[Array, ""] | None = None,
) -> Int[Array, "B N"]:
    """Returns the N = `max_new_tokens` tokens that follow each prompt of a batch.

    The end token is part of a row, padding follows it. What a row writes depends on
    nothing but itself, and not on the side of its padding.

    Args:
      batch: one prompt per row, all answered in the same budget.
      key: for random sampling; every row and token gets a key of its own.

    Raises:
      ValueError: for rows that are no prompts, a wrong budget, N or lack of a key.
    """
    if max_new_tokens < 1:
        raise ValueError(f"{max_new_tokens=} must be at least 1.")
    if _is_on_this_host(batch.tokens):
        check_prompts(batch)
    prompts = prefill(model, params, batch, budget, spare=max_new_tokens - 1)
    return decode(
        model,
        params,
        prompts,
        budget,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        sampling=sampling,
        row_keys=None if key is None else jax.random.split(key, batch.size),
    )


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
    """Returns medians over `repeats` greedy runs of at least two tokens each."""
    count = max(max_new_tokens, 2)
    batch = jax.device_put(batch)

    def read() -> Any:
        return prefill(model, params, batch, budget, spare=count - 1)

    prompts = read()

    def write() -> Any:
        return decode(
            model,
            params,
            prompts,
            budget,
            max_new_tokens=count,
            eos_id=_NO_TOKEN,
            pad_id=0,
        )

    return Latency(
        prefill=_milliseconds(read, repeats),
        per_token=_milliseconds(write, repeats) / (count - 1),
    )


def _milliseconds(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
