"""What a policy chooses for the questions of an evaluation set."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from visor_jax.evals.harness import BudgetResult
from visor_jax.evals.pages.benchmark import GROUPS, EvaluationSet
from visor_jax.evals.pages.policy_references import oracle_choice
from visor_jax.evals.report.policy_rows import PolicyChoices
from visor_jax.models.vlm import VLM
from visor_jax.policy.choose import choose
from visor_jax.policy.network import Policy, prompt_logits

Params = Any
# Of the random policy's draws.
_SEED = 0


def page_logits(
    model: VLM, params: Params, policy: Policy, evaluation_set: EvaluationSet
) -> Float[np.ndarray, "pages tasks budgets"]:
    """Returns the policy's logits for every task asked about every page."""
    shape = (len(evaluation_set.pool), len(evaluation_set.task_names))
    logits = np.zeros((*shape, policy.config.num_budgets), np.float32)
    for asked in evaluation_set.batches():
        rows, places = np.nonzero(asked.task_ids >= 0)
        found = prompt_logits(
            params,
            policy.params,
            jax.device_put(asked.batch),
            # All places, so that there is one program; those of no question are left.
            np.tile(np.arange(asked.task_ids.shape[1]), (len(asked.task_ids), 1)),
            model=model,
            config=policy.config,
        )
        pages, tasks = asked.page_index[rows], asked.task_ids[rows, places]
        logits[pages, tasks] = np.asarray(found)[rows, places]
    return logits


def policy_choices(
    label: str,
    logits: Float[np.ndarray, "pages tasks budgets"],
    policy: Policy,
    results: Sequence[BudgetResult],
    preferences: Sequence[float],
) -> PolicyChoices:
    """Returns what the policy chooses at each preference, and chance and the oracle.

    Args:
      results: of all budgets, in class order.
      preferences: see `policy.choose`; "random" shuffles the choices at the first.
    """
    costs, flat = np.array(policy.costs), logits.reshape(-1, logits.shape[-1])
    pages, tasks = logits.shape[:2]
    choices = {
        "auto" if not p else f"auto, cost {p:g}": choose(flat, costs, p)
        for p in preferences
    }
    first = next(iter(choices.values())).reshape(pages, tasks)
    choices["random"] = _random(first, results[0].task_names)
    correct = np.stack([result.correct for result in results], axis=-1) == 1
    choices["oracle"] = oracle_choice(correct.reshape(-1, len(costs)), costs)
    return PolicyChoices(
        label=label,
        choices={n: np.reshape(c, (pages, tasks)) for n, c in choices.items()},
    )


def _random(
    chosen: Int[np.ndarray, "pages tasks"], task_names: Sequence[str]
) -> Int[np.ndarray, "pages tasks"]:
    """Returns the choices shuffled within each group of tasks: exactly their cost."""
    rng, drawn = np.random.default_rng(_SEED), np.zeros_like(chosen)
    for names in GROUPS.values():
        columns = [task_names.index(name) for name in names]
        mine = chosen[:, columns]
        drawn[:, columns] = rng.permutation(mine.ravel()).reshape(mine.shape)
    return drawn
