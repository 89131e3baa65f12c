"""How a prompt is answered, a prompt that is ready to be, and what a look came to."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

from jaxtyping import Array

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.generation.shared_trunk import SharedTrunk
from visor_jax.inference.routing.cascade import Cascade


class Options(TypedDict, total=False):
    """How to answer.

    max_new_tokens: at most so many; None for 256 (8 for pages). key: for random
    sampling; a seed will do. cost: with "auto", above 0 for cheaper choices. stop:
    texts; an answer ends before the first that it would hold. crops: of an image that
    are looked at, see `visor_jax.look.crops_of`; None for all. "best+2" for the tiles
    that the network chooses by the base view (`routing.tile_chooser`), "auto@0.8" for
    the base view first, and all where that answer's confidence lies below
    (`looking_twice`; `generate`, `chat` and `generate_all` alone).
    """

    max_new_tokens: int | None
    sampling: Sampling
    key: Array | int | None
    cost: float
    stop: Sequence[str]
    crops: str | int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One answer of a prompt, of which a cascade may give two; the last one stands.

    confidence: see `inference.confidence`; None where nobody asks. steps: of decoding,
    after the first token. at_hand: the layers in which the image's keys and values were
    at hand.
    """

    budget: Budget
    confidence: float | None
    steps: int
    at_hand: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReadPrompt:
    """A prompt as the network takes it: one row, its budget, room for its answer.

    trunk: the prompt behind the layers that all budgets share, where it was read to
      choose the budget; answering goes on from there.
    cascade: that is to choose it; None for another's choice.
    first: what its first look came to, once it was (`VisorModel.look`). tokens: of the
      answer, if that was enough.
    looked_at: which crops of its image are shown (`Looking.report`); None for all.
    """

    batch: Batch
    budget: Budget
    max_new_tokens: int
    trunk: SharedTrunk | None = None
    cascade: Cascade | None = None
    first: Attempt | None = None
    tokens: tuple[int, ...] | None = None
    looked_at: dict[str, Any] | None = None
