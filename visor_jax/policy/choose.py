"""From the policy's logits to budgets: the same rule in training, report and engine.

    chosen = argmax over budgets of  logit - preference * relative cost

`preference` turns the cost without training again: 0 takes the policy at its word, more
is cheaper, less than 0 is dearer. The mean cost never rises with it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from visor_jax.budget import Budget, BudgetSet
from visor_jax.flops.account import account
from visor_jax.models.config import VLMConfig


def relative_costs(
    config: VLMConfig, budgets: BudgetSet, *, text_tokens: int, image_tokens: int
) -> Float64[np.ndarray, "budgets"]:
    """Returns every budget's LLM FLOPs in a prefill, the dearest one's being 1.

    Logits are counted at one position, as a generation needs them.

    Raises:
      ValueError: for impossible lengths.
    """
    flops = [
        account(
            config,
            budget,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            crops=0,
            logit_positions=1,
        ).llm_prefill
        for budget in budgets
    ]
    return np.array(flops, np.float64) / max(flops)


def choose(
    logits: Float[np.ndarray, "n budgets"],
    costs: Float[np.ndarray, "budgets"] | Sequence[float],
    preference: float | Sequence[float] = 0.0,
) -> Int[np.ndarray, "n"]:
    """Returns the class of the budget chosen for each sample; of equals the cheapest.

    Args:
      preference: one for all samples, or one for each.

    Raises:
      ValueError: if there is not one cost per logit, or a value is not finite.
    """
    logits, costs = np.asarray(logits, np.float64), np.asarray(costs, np.float64)
    if logits.ndim != 2 or costs.shape != logits.shape[1:]:
        raise ValueError(
            f"Logits {logits.shape} and costs {costs.shape} must be (samples, budgets) "
            "and (budgets,)."
        )
    wishes = np.broadcast_to(np.asarray(preference, np.float64), logits.shape[:1])
    if not all(np.isfinite(each).all() for each in (logits, costs, wishes)):
        raise ValueError(f"Logits, costs and {preference=} must be finite.")
    cheapest_first = np.argsort(costs, kind="stable")
    values = (logits - wishes[:, None] * costs)[:, cheapest_first]
    return cheapest_first[np.argmax(values, axis=1)]


def choose_budgets(
    logits: Float[np.ndarray, "n budgets"],
    costs: Float[np.ndarray, "budgets"] | Sequence[float],
    budgets: BudgetSet,
    preference: float | Sequence[float] = 0.0,
) -> list[Budget]:
    """Returns the budget chosen for each sample. Raises ValueError as `choose`."""
    return [budgets.budgets[i] for i in choose(logits, costs, preference)]
