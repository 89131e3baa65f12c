"""Many prompts, prefilled in parts of one budget and about one size.

Prompts whose budget a policy chooses go through the trunk together and part behind it;
those of a cascade that look again go on from the same trunk.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.buckets import Group, padded_rows
from visor_jax.data.prompts.sample import Sample
from visor_jax.inference.generation.generate import prefilled, spare_for
from visor_jax.inference.generation.prefill import Prefilled
from visor_jax.inference.generation.shared_trunk import SharedTrunk, prefill_behind
from visor_jax.inference.options import ReadPrompt
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.choose_budgets import BudgetChoice
from visor_jax.models.vlm import VLM

Params = Any


@dataclasses.dataclass(frozen=True, eq=False)
class PrefilledPart:
    """Prompts that are decoded together.

    samples: which one stands in each row. count: rows before filler, which repeats one.
    first_look: of a cascade, where this is one.
    """

    samples: Int[np.ndarray, "X"]
    count: int
    prompts: Prefilled
    first_look: "FirstLook | None" = None


@dataclasses.dataclass(frozen=True, eq=False)
class FirstLook:
    """The trunk behind which rows of a first look can be looked at again."""

    cascade: Cascade
    trunk: SharedTrunk


def prefilled_parts(
    choice: BudgetChoice,
    samples: Sequence[Sample],
    budgets: Sequence[Budget | Cascade | None],
    limits: Sequence[int],
    *,
    costs: Sequence[float],
    batch_size: int,
) -> Iterator[PrefilledPart]:
    """Yields all samples, each in one part.

    Args:
      budgets: of each sample; None for what the policy chooses, at its cost. Of a
        cascade the first look; see `looking_again`.
      limits: the most tokens of each sample's answer.
    """
    limits = np.asarray(limits)
    for budget in dict.fromkeys(budgets):
        mine = np.array([i for i, each in enumerate(budgets) if each == budget])
        for group in choice.buckets.batches(
            [samples[i] for i in mine], batch_size, whole=False
        ):
            if budget is None:
                wishes = [costs[mine[row]] for row in group.rows]
                yield from _chosen_parts(choice, group, mine, limits, wishes)
                continue
            rows = mine[_filled(group.rows, group.batch.size)]
            if isinstance(budget, Cascade):
                yield _first_look(choice, group, rows, limits, budget)
                continue
            prompts = prefilled(
                choice.model, choice.params, group.batch, budget, limits[rows]
            )
            yield PrefilledPart(rows, len(group.rows), prompts)


def looking_again(
    choice: BudgetChoice,
    part: PrefilledPart,
    unsure: Sequence[int],
    limits: Sequence[int],
) -> PrefilledPart:
    """Returns the rows of a first look that are unsure, in the second budget.

    They go on from the trunk: neither the tower nor the trunk runs again.
    """
    first, size = part.first_look, padded_rows(len(unsure), len(part.samples))
    filled = _filled(unsure, size)
    rows = part.samples[filled]
    prompts = prefill_behind(
        choice.model,
        choice.params,
        first.trunk,
        filled,
        first.cascade.second,
        spare=spare_for(np.asarray(limits)[rows]),
    )
    return PrefilledPart(rows, len(unsure), prompts)


def read_prompt(
    choice: BudgetChoice,
    batch: Batch,
    budget: str | Budget | None,
    cost: float,
    *,
    max_new_tokens: int,
) -> ReadPrompt:
    """Returns one prompt with its budget. Errors as `BudgetChoice.of_samples`."""
    (chosen,), trunk, cascade = choice.named(1, budget, cost), None, None
    if chosen is None:
        trunk, logits = choice.read(batch)
        (chosen,) = choice.chosen(logits, cost)
    elif isinstance(chosen, Cascade):
        trunk, cascade = choice.trunk(batch), chosen
        chosen = cascade.first
    return ReadPrompt(
        batch=batch,
        budget=chosen,
        max_new_tokens=max_new_tokens,
        trunk=trunk,
        cascade=cascade,
    )


def prefilled_prompt(model: VLM, params: Params, prompt: ReadPrompt) -> Prefilled:
    """Returns one prompt, from its trunk where that is at hand."""
    count = prompt.max_new_tokens
    if prompt.trunk is None:
        return prefilled(model, params, prompt.batch, prompt.budget, count)
    rows, spare = np.arange(prompt.batch.size), spare_for(count)
    return prefill_behind(model, params, prompt.trunk, rows, prompt.budget, spare=spare)


def _first_look(
    choice: BudgetChoice,
    group: Group,
    rows: Int[np.ndarray, "X"],
    limits: Int[np.ndarray, "all"],
    cascade: Cascade,
) -> PrefilledPart:
    """Returns a group behind its trunk, in the first budget of a cascade."""
    trunk, places = choice.trunk(group.batch), np.arange(group.batch.size)
    budget, spare = cascade.first, spare_for(limits[rows])
    prompts = prefill_behind(
        choice.model, choice.params, trunk, places, budget, spare=spare
    )
    return PrefilledPart(rows, len(group.rows), prompts, FirstLook(cascade, trunk))


def _chosen_parts(
    choice: BudgetChoice,
    group: Group,
    mine: Int[np.ndarray, "n"],
    limits: Int[np.ndarray, "all"],
    costs: Sequence[float],
) -> Iterator[PrefilledPart]:
    """Yields a group in parts of what the policy chooses."""
    trunk, logits = choice.read(group.batch)
    chosen = choice.chosen(logits[: len(group.rows)], costs)
    for budget in dict.fromkeys(chosen):
        places = [i for i, each in enumerate(chosen) if each == budget]
        filled = _filled(places, padded_rows(len(places), group.batch.size))
        rows = mine[np.array(group.rows)[filled]]
        prompts = prefill_behind(
            choice.model,
            choice.params,
            trunk,
            filled,
            budget,
            spare=spare_for(limits[rows]),
        )
        yield PrefilledPart(rows, len(places), prompts)


def _filled(rows: Sequence[int], size: int) -> Int[np.ndarray, "X"]:
    """Returns the rows; the last one again up to `size`."""
    return np.array([*rows, *[rows[-1]] * (size - len(rows))])
