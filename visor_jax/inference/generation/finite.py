"""Answers of a network that computes NaN or infinity: an error, and its cause.

Where the logits of a token are not finite, there is no likeliest one: `NOT_FINITE`
stands in its place and ends the row. Which parameter is to blame is looked for only
then, so that it costs nothing otherwise.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from visor_jax.data.prompts.stop_tokens import NOT_FINITE

Params = Any


def marked(
    token: Int[Array, "*B"], logits: Float[Array, "*B W"]
) -> tuple[Int[Array, "*B"], Bool[Array, "*B"]]:
    """Returns the tokens, NOT_FINITE where the logits have none, and where that is."""
    broken = ~jnp.isfinite(jnp.max(logits, axis=-1))
    return jnp.where(broken, NOT_FINITE, token), broken


def check_written(tokens: Int[np.ndarray, "..."], params: Params) -> None:
    """Raises ValueError if these tokens are not all of finite logits."""
    if (np.asarray(tokens) == NOT_FINITE).any():
        raise ValueError(why_not_finite(params))


def first_row(tokens: Iterable[Int[np.ndarray, "B"]], params: Params) -> Iterator[int]:
    """Yields the tokens of the first row as they come. Raises as `check_written`."""
    for each in tokens:
        check_written(each[:1], params)
        yield int(each[0])


def why_not_finite(params: Params) -> str:
    """Returns what is wrong with a network whose logits are not finite.

    Reads parameters up to the first that is not finite either.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        bad = leaf.size - int(jnp.isfinite(leaf).sum())
        if bad:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return (
                f"The logits of an answer are not finite: {bad} of {leaf.size} numbers "
                f"of the parameter {name} are not. The checkpoint is damaged, or its "
                "training had diverged: take an earlier one."
            )
    return (
        "The logits of an answer are not finite, though all parameters are: what lies "
        "between overflows in this dtype; load the network with dtype='float32'."
    )
