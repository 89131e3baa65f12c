"""Questions that are looked at ever closer, until an answer is sure enough.

    1   the base view                       at the budget that routers look with
    2   it and the two best tiles by it     at the largest budget
    3   all crops                           at the largest budget

The best tiles are a trained scorer's, or the untrained router's. An answer stands if
its confidence (`inference.confidence`) is not below the threshold; the third always
does. FLOPs are of all looks that were taken, tower included, and nothing of one is used
again by the next, but for what the first says about tiles. Half of the questions are
easy and half are hard, and nobody tells which.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from visor_jax.analysis.looks.asking import Item, alike, each_its_own, item_batches
from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.inference.loading.network import Network
from visor_jax.layer_plan import StaticGate
from visor_jax.models.vlm import VLM
from visor_jax.sharding.programs import mesh_jit

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
# Beside the base view, in the second look.
TILES = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Climb:
    """What three looks at each question of some pages came to, one after another.

    right: whether the answer was right, sure: its confidence, of every look. flops: of
    each look at one question, what it needs beyond the looks before.
    """

    right: Bool[np.ndarray, "questions looks"]
    sure: Float[np.ndarray, "questions looks"]
    flops: tuple[int, ...]

    def last(self, threshold: float) -> Int[np.ndarray, "questions"]:
        """Returns which look's answer stands, from 0."""
        stands = self.sure >= threshold
        stands[:, -1] = True
        return stands.argmax(axis=1)

    def right_at(self, threshold: float) -> Bool[np.ndarray, "questions"]:
        """Returns whether the answers that stand are right."""
        return np.take_along_axis(
            self.right, self.last(threshold)[:, None], axis=1
        ).squeeze(axis=1)

    def flops_at(self, threshold: float) -> Int[np.ndarray, "questions"]:
        """Returns the FLOPs of all looks at each question."""
        return np.cumsum(np.array(self.flops, np.int64))[self.last(threshold)]


def climb(
    network: Network,
    part: PageBenchmark,
    ranking: Int[np.ndarray, "questions tiles"],
    budgets: tuple[Budget, Budget],
    flops: Sequence[int],
    *,
    batch_size: int,
) -> Climb:
    """Returns what three looks at every question of the pages come to.

    Args:
      ranking: best tiles of each question first, from 1. budgets: of the first look,
        and of the others. flops: of each look.
    """
    first, then = budgets
    looks = (
        (alike(part, (0,)), first),
        (each_its_own(part, ranking[:, :TILES]), then),
        (alike(part, None), then),
    )
    found = [
        right_and_sure(network, part, items, budget, batch_size=batch_size)
        for items, budget in looks
    ]
    right, sure = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    return Climb(right=right, sure=sure, flops=tuple(flops))


def right_and_sure(
    network: Network,
    part: PageBenchmark,
    items: Sequence[Item],
    budget: Budget,
    *,
    batch_size: int,
) -> tuple[Bool[np.ndarray, "questions"], Float[np.ndarray, "questions"]]:
    """Returns for every question whether it is answered right, and how surely.

    Answers are a word and the end; how probable the end is stands behind the right
    word, where a wrong one was likelier.
    """
    gates, end = budget.gates(network.config.plan), part.form.book.eos_id
    right, sure = [], []
    for batch, rows, kept in item_batches(part, items, batch_size):
        places = np.stack([row.answer_places for row in rows]).astype(np.int32)
        wanted = np.stack([row.tokens[row.answer_places + 1] for row in rows])
        tokens, log_probs = _likeliest(
            network.params,
            jax.device_put(batch),
            places,
            model=network.vlm,
            gates=gates,
        )
        wanted = np.stack([wanted, np.full_like(wanted, end)], axis=-1)
        is_right = (np.asarray(tokens) == wanted).all(axis=-1)
        right.append(is_right[:kept].reshape(-1))
        mean = np.asarray(log_probs, np.float64).mean(axis=-1)
        sure.append(np.exp(mean[:kept]).reshape(-1))
    return np.concatenate(right), np.concatenate(sure)


@mesh_jit(static_argnames=("model", "gates"))
def _likeliest(
    params: Any,
    batch: Batch,
    places: Int[Array, "B R"],
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
) -> tuple[Int[Array, "B R 2"], Float[Array, "B R 2"]]:
    """Returns the likeliest tokens behind these places and the next, and how likely."""
    logits = model.apply({"params": params}, batch, gates).logits
    both = jnp.stack([places, places + 1], axis=-1)
    rows = jnp.arange(len(places))[:, None, None]
    log_probs = jax.nn.log_softmax(logits[rows, both].astype(jnp.float32), axis=-1)
    return jnp.argmax(log_probs, axis=-1), jnp.max(log_probs, axis=-1)
