"""Who says which budget a question gets: on the device what it sees, on the host why.

A chooser has two parts. `scores` is traced into the program that reads the prompts and
sees what stands there after the layers that all budgets share. `choose` runs on the
host, sees those scores and the requests, and may weigh costs or wishes without a new
program. A policy network is one chooser; a fixed budget is another.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from visor_jax.budget import Budget
from visor_jax.inference.reader import Request
from visor_jax.models.decoder import Prefix

Params = Any


@flax.struct.dataclass
class Features:
    """What a chooser sees of Q questions, after the budget-independent layers.

    text: the hidden state of each question's last token. image: the mean of the valid
    image tokens, zeros where there are none.
    """

    text: Float[Array, "Q D"]
    image: Float[Array, "Q D"]


def features_of(prefix: Prefix, last: Int[Array, "B R"]) -> Features:
    """Returns the features of R questions in each row, row by row (Q = B * R).

    last: the slot of each question's last token.
    """
    text = jnp.take_along_axis(prefix.text.hidden, last[..., None], axis=1)
    valid = prefix.image.tags.valid[..., None]
    total = jnp.where(valid, prefix.image.hidden.astype(jnp.float32), 0).sum(axis=1)
    mean = total / jnp.maximum(valid.sum(axis=1), 1)
    mean = jnp.broadcast_to(mean[:, None].astype(text.dtype), text.shape)
    return Features(text.reshape(-1, text.shape[-1]), mean.reshape(-1, text.shape[-1]))


@runtime_checkable
class Chooser(Protocol):
    """Picks a budget for each question.

    budgets: what it picks from, in class order. params: arrays that `scores` gets; an
    argument of the program, so that they are not compiled into it.
    """

    budgets: Sequence[Budget]
    params: Params

    def scores(self, params: Params, features: Features) -> Array:
        """Returns (Q, n) numbers for `choose`; traced. n = 0 if it needs none."""
        ...

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns the index of each question's budget; one row of scores for each."""
        ...


class HostChooser:
    """A chooser that looks at the requests alone."""

    params: Params = ()

    def __init__(
        self, budgets: Sequence[Budget], rule: Callable[[Request], int]
    ) -> None:
        """Takes what says which of the budgets a request gets."""
        self.budgets = tuple(budgets)
        self._rule = rule

    def scores(self, params: Params, features: Features) -> Array:
        """Returns (Q, 0): nothing on the device is asked."""
        del params
        return jnp.zeros((features.text.shape[0], 0))

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns what the rule says of each request."""
        del scores
        return [self._rule(request) for request in requests]


def fixed(budget: Budget) -> HostChooser:
    """Returns the chooser that gives every question this budget."""
    return HostChooser([budget], lambda request: 0)
