"""Runs a network at every budget over every question of an evaluation set."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals.pages.benchmark import EvaluationSet
from visor_jax.evals.pages.packed_answers import read_answers
from visor_jax.evals.statistics import Answers, correct_table
from visor_jax.models.vlm import VLM

Params = Any
# Called with (units done, units in all).
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """What the network answered at one budget; `task_names` numbers the tasks."""

    budget: Budget
    answers: Answers
    task_names: tuple[str, ...]

    @property
    def self_layers_on(self) -> int:
        return len(self.budget.self_layers)

    @property
    def correct(self) -> np.ndarray:
        """(pages, tasks) float: 1 right, 0 wrong."""
        return correct_table(self.answers, len(self.task_names))

    @property
    def accuracy(self) -> dict[str, float]:
        """{task: accuracy}"""
        means = np.nanmean(self.correct, axis=0)
        return dict(zip(self.task_names, means.tolist(), strict=True))


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def predict(
    model: VLM, params: Params, batch: Batch, gates: tuple[bool, ...]
) -> Int[Array, "B T"]:
    """Returns the most likely next token at every place, int32.

    The gates are Python bools: one program per budget, without what is off. Networks of
    the same configuration (other seeds) share the programs.
    """
    logits = model.apply({"params": params}, batch, gates).logits
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def evaluate_budgets(
    model: VLM,
    params: Params,
    budgets: BudgetSet,
    evaluation_set: EvaluationSet,
    *,
    progress: Progress | None = None,
) -> list[BudgetResult]:
    """Returns the answers at every budget, in the order of the set.

    Args:
      progress: called after every batch and budget with (forward passes done, all).

    Raises:
      ValueError: if the budgets are of another plan than the model.
    """
    check_plan(model, budgets)
    gates = [budget.gates(budgets.plan) for budget in budgets]
    parts: list[list[Answers]] = [[] for _ in gates]
    done, total = 0, evaluation_set.num_batches * len(gates)
    for asked in evaluation_set.batches():
        batch = jax.device_put(asked.batch)
        for part, gate in zip(parts, gates, strict=True):
            predicted = np.asarray(predict(model, params, batch, gate))
            part.append(read_answers(predicted, asked))
            done += 1
            if progress is not None:
                progress(done, total)
    return [
        BudgetResult(
            budget=budget,
            answers=Answers.join(part),
            task_names=evaluation_set.task_names,
        )
        for budget, part in zip(budgets, parts, strict=True)
    ]


def check_plan(model: VLM, budgets: BudgetSet) -> None:
    """Raises ValueError unless the budgets were made for the model's plan."""
    if budgets.plan != model.config.plan:
        raise ValueError(
            f"The budgets are of a plan with SELF layers {budgets.plan.self_layers} of "
            f"{budgets.plan.num_layers}, the model has {model.config.plan.self_layers} "
            f"of {model.config.plan.num_layers}."
        )
