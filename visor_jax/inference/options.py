"""How a prompt is answered, and a prompt that is ready to be."""

import dataclasses
from typing import TypedDict

from jaxtyping import Array

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.inference.sampling import Sampling


class Options(TypedDict, total=False):
    """How to answer.

    max_new_tokens: at most so many; None for 256 (8 for pages). key: for random
    sampling; a seed will do. cost: with "auto", above 0 for cheaper choices.
    """

    max_new_tokens: int | None
    sampling: Sampling
    key: Array | int | None
    cost: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReadPrompt:
    """A prompt as the network takes it: one row, its budget, room for its answer."""

    batch: Batch
    budget: Budget
    max_new_tokens: int
