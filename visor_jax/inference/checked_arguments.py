"""What callers give to `VisorModel` and `Engine`, checked once, where it comes in.

Every error is a ValueError that names the argument, the value and what to give instead.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from visor_jax.batch import Batch
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.options import ReadPrompt
from visor_jax.runtime.arguments import (
    LEAST_SEED,
    MOST_SEED,
    instance_of,
    iterator_of,
    shown,
    whole_number,
)


def request_of(request: Any, name: str = "request") -> Request:
    """Returns the request. Raises ValueError for anything else."""
    remedy = "write visor_jax.Request(prompt, images)"
    return instance_of(request, Request, name, remedy)


def requests_of(requests: Any) -> list[Request]:
    """Returns the requests as a list.

    Raises:
      ValueError: for what is no list of them; the first other thing is named.
    """
    found = list(source_of(requests))
    return [request_of(each, f"requests[{i}]") for i, each in enumerate(found)]


def source_of(requests: Any) -> Iterator[Any]:
    """Returns what gives requests one by one.

    Raises:
      ValueError: for a text, a single request, or what is no iterable.
    """
    found = iterator_of(requests)
    if found is None:
        raise ValueError(
            f"requests={shown(requests)} is no list of requests: write "
            "[visor_jax.Request(prompt, images), ...]."
        )
    return found


def questions_of(questions: Any) -> list[Any]:
    """Returns the prompts of several questions; a text is one.

    Raises:
      ValueError: for what is no list.
    """
    if isinstance(questions, str):
        return [questions]
    found = iterator_of(questions)
    if found is None:
        raise ValueError(
            f"questions={shown(questions)} is no list of questions: write ['Who?', "
            "...]."
        )
    return list(found)


def sampling_of(sampling: Any) -> Sampling:
    """Returns the sampling. Raises ValueError for anything else."""
    remedy = "write visor_jax.Sampling(temperature=...)"
    return instance_of(sampling, Sampling, "sampling", remedy)


def one_key_of(key: Any) -> Key[Array, ""] | None:
    """Returns the only key. Raises ValueError as `key_of`, and for several."""
    found = key_of(key)
    if found is not None and found.shape:
        raise ValueError(f"key holds {found.shape} keys: give one, jax.random.key(0).")
    return found


def key_of(key: Any) -> Key[Array, "*B"] | None:
    """Returns the random key that is meant, None for none.

    Args:
      key: of `jax.random.key`, several of them, a seed, or uint32 numbers as
        `jax.random.PRNGKey` returns them.

    Raises:
      ValueError: for anything else.
    """
    if key is None:
        return None
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array | np.ndarray) and key.ndim:
        if key.dtype == np.uint32 and key.shape[-1] == _key_size():
            return jax.random.wrap_key_data(jnp.asarray(key))
        raise ValueError(
            f"key is an array of {key.dtype} {key.shape}: write jax.random.key(0)."
        )
    try:
        return jax.random.key(
            whole_number(key, "key", least=LEAST_SEED, most=MOST_SEED)
        )
    except ValueError as error:
        raise ValueError(f"{error} Give a seed, or jax.random.key(seed).") from None


def _key_size() -> int:
    return jax.random.key_data(jax.random.key(0)).shape[-1]


def batch_of(batch: Any, *, one_question: bool = False) -> Batch:
    """Returns the batch.

    Raises:
      ValueError: for anything else; with one_question, for several questions in a row.
    """
    remedy = "model.batch(images, prompt) makes one"
    batch = instance_of(batch, Batch, "batch", remedy)
    segments = np.where(batch.text_mask, batch.text_segments, 0)
    if one_question and np.any(segments > 1):
        raise ValueError(
            "The batch has several questions in a row, but the network drops image "
            "tokens by what one question looks at: give each a row of its own, or "
            "load the network with another `reduce`."
        )
    return batch


def read_prompt_of(prompt: Any) -> ReadPrompt:
    """Returns the prompt that was read. Raises ValueError for anything else."""
    remedy = "model.read(request) makes one"
    return instance_of(prompt, ReadPrompt, "prompt", remedy)


def lengths_of(lengths: Mapping[str, Any]) -> dict[str, int | None]:
    """Returns the lengths by name. Raises ValueError for what is no whole number.

    None is one where `prompt_cost` has a meaning for it.
    """
    return {
        name: value
        if value is None and name in ("image_tokens", "logit_positions")
        else whole_number(value, name)
        for name, value in lengths.items()
    }


def function_of(function: Any, name: str) -> Any:
    """Returns the function, or None. Raises ValueError for anything else."""
    if function is None or callable(function):
        return function
    raise ValueError(f"{name}={shown(function)} is no function.")
