"""How sure a policy is that the budget it chooses is good enough.

Two readings of the logits, by what they were trained for:

    labels    softmax: the probability that a budget is the cheapest adequate one. The
              chosen one is enough if that one is no dearer: sum over no dearer budgets
    losses    with an entropy term the best logits are
                  -(loss + cost_weight * cost) / entropy_weight + a constant,
              so that they tell how much more is lost than with the dearest budget.
              Where the loss is 1 for a wrong answer, 1 - that is the chance

Logits of other objectives order the budgets but tell no probability: `Uncalibrated`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Uncalibrated:
    """Logits that tell no probability, and why."""

    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adequacy:
    """Which reading; the weights are those of training, 0 and 0 for that of labels."""

    cost_weight: float = 0.0
    entropy_weight: float = 0.0

    def __call__(
        self,
        logits: Float[np.ndarray, "n budgets"],
        chosen: Int[np.ndarray, "n"],
        costs: Float[np.ndarray, "budgets"],
    ) -> Float[np.ndarray, "n"]:
        """Returns the chance that the chosen budgets are adequate, in 0..1."""
        logits = np.asarray(logits, np.float64)
        if not self.entropy_weight:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            chances = powers / powers.sum(axis=1, keepdims=True)
            no_dearer = costs[None, :] <= costs[chosen][:, None]
            return np.clip(np.sum(chances * no_dearer, axis=1), 0, 1)
        full = int(np.argmax(costs))
        losses = -self.entropy_weight * logits - self.cost_weight * costs
        more = losses[np.arange(len(chosen)), chosen] - losses[:, full]
        return 1 - np.clip(more, 0, 1)
