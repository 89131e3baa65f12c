"""Pseudo-labels: the cheapest budget that is good enough for a sample.

A budget is adequate if its score reaches a share (99 %) of the full budget's score on
the same sample. Scores are not negative; two are in use:

    right or wrong     1 or 0: where the full budget is right, whoever is right too;
                       where it is wrong, everyone, so that nothing is spent in vain
    likelihood         the probability of the answer, exp(log-likelihood)

Example, costs rising from left to right, the last budget full:

    scores  1 0 1 1    0 0 1 1    0 0 0 0    0 1 0 0
    label   0          2          0          0 (1 if the reference is "best")
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

SHARE = 0.99
# Whose score on a sample counts as everything: the full budget's, or the best one's.
REFERENCES = ("full", "best")


def adequate(
    scores: Float[np.ndarray, "n budgets"],
    costs: Float[np.ndarray, "budgets"] | Sequence[float],
    *,
    share: float = SHARE,
    reference: str = "full",
) -> Bool[np.ndarray, "n budgets"]:
    """Returns which budgets are good enough for each sample, the full one always.

    Args:
      scores: not negative.
      costs: of the budgets; the full one is the dearest.
      reference: one of `REFERENCES`.

    Raises:
      ValueError: for negative scores, another reference, or a share outside 0..1.
    """
    scores, costs = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    if reference not in REFERENCES or not 0 < share <= 1:
        raise ValueError(f"{reference=} must be in {REFERENCES} and {share=} in 0..1.")
    if costs.shape != scores.shape[1:] or not (scores >= 0).all():
        raise ValueError(
            f"Scores {scores.shape} must be at least 0 and (samples, budgets), with "
            f"one cost per budget; got costs {costs.shape}. Of log-likelihoods take "
            "the exponential."
        )
    if reference == "full":
        wanted = scores[:, int(np.argmax(costs))]
    else:
        wanted = scores.max(axis=1)
    return scores >= share * wanted[:, None]


def cheapest_adequate(
    scores: Float[np.ndarray, "n budgets"],
    costs: Float[np.ndarray, "budgets"] | Sequence[float],
    *,
    share: float = SHARE,
    reference: str = "full",
) -> Int[np.ndarray, "n"]:
    """Returns each sample's label: the class of its cheapest adequate budget.

    Of budgets that cost the same, the one with the better mean score over all samples.
    Arguments and errors are those of `adequate`.
    """
    enough = adequate(scores, costs, share=share, reference=reference)
    # The last key counts first.
    order = np.lexsort((-np.mean(scores, axis=0), np.asarray(costs)))
    return order[np.argmax(enough[:, order], axis=1)]
