"""Which threshold a cascade should have: pure functions of measured confidences.

Every prompt of a calibration has been answered in both budgets. A threshold sends those
back whose first confidence lies below it: the least sure ones first, so both the cost
and the agreement with the larger budget rise with it.

    confidence    0.3   0.5   0.9   1.0        threshold 0.7 sends two back
    agrees        no    no    yes   yes        agreement 4 of 4
    cost          1, and 4 more for each sent back: mean 1 + 4 * 2/4 = 3

A threshold stands half-way between two confidences, so that rounding sends nobody else.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

# What a share of examples may be off by its own rounding.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CascadeCurve:
    """What a cascade does at every threshold that tells it from the next, ascending.

    sent: (k,) how many examples are answered again. accuracy: the mean score of the
    final answers. agreement: the share of final answers that are the second budget's.
    cost: the mean cost.
    """

    thresholds: Float[np.ndarray, "k"]
    sent: Int[np.ndarray, "k"]
    accuracy: Float[np.ndarray, "k"]
    agreement: Float[np.ndarray, "k"]
    cost: Float[np.ndarray, "k"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TwoLooks:
    """n examples that were answered in both budgets.

    confidence: of the first answers, in (0, 1]. scores: of the answers of the first and
    of the second budget. agrees: whether both say the same. first_cost, again_cost: of
    the first look, and of looking again after it, in any unit.

    Raises ValueError for no example, unlike lengths, or confidences and costs outside
    their range.
    """

    confidence: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "2 n"]
    agrees: Bool[np.ndarray, "n"]
    first_cost: Float[np.ndarray, "n"]
    again_cost: Float[np.ndarray, "n"]

    def __post_init__(self) -> None:
        n = len(self.confidence)
        shapes = {
            "scores": (2, n),
            **dict.fromkeys(("agrees", "first_cost", "again_cost"), (n,)),
        }
        wrong = {
            name: np.shape(getattr(self, name))
            for name, shape in shapes.items()
            if np.shape(getattr(self, name)) != shape
        }
        if not n or wrong:
            raise ValueError(f"{n} confidences do not go with {wrong or 'nothing'}.")
        if not (np.all(self.confidence > 0) and np.all(self.confidence <= 1)):
            raise ValueError("Confidences must lie above 0 and up to 1.")
        costs = np.concatenate([self.first_cost, self.again_cost])
        if not (np.isfinite(costs).all() and np.all(costs >= 0)):
            raise ValueError("Costs must be finite and not below 0.")


def cascade_curve(looks: TwoLooks) -> CascadeCurve:
    """Returns what every threshold does, from sending nobody on.

    All are sent by the last one, unless the network was certain (1.0) of some.
    """
    order = np.argsort(looks.confidence, kind="stable")
    thresholds, sent = _thresholds(looks.confidence[order])

    def mean(before: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Returns means after `change` for the least sure ones."""
        summed = np.concatenate([[0.0], np.cumsum(change[order], dtype=np.float64)])
        return (np.sum(before, dtype=np.float64) + summed[sent]) / len(order)

    first, second = np.asarray(looks.scores, np.float64)
    agrees = np.asarray(looks.agrees, np.float64)
    return CascadeCurve(
        thresholds=thresholds,
        sent=sent,
        accuracy=mean(first, second - first),
        agreement=mean(agrees, 1 - agrees),
        cost=mean(looks.first_cost, looks.again_cost),
    )


def threshold_for_cost(looks: TwoLooks, cost: float) -> float:
    """Returns the largest threshold whose mean cost is at most `cost`.

    Raises:
      ValueError: if the first look alone costs more.
    """
    curve = cascade_curve(looks)
    within = np.flatnonzero(curve.cost <= cost * (1 + _ROUNDING))
    if not len(within):
        raise ValueError(
            f"A mean cost of {cost:g} is not to be had: the first look alone costs "
            f"{curve.cost[0]:g}. Allow more, or take a cheaper first budget."
        )
    return float(curve.thresholds[within[-1]])


def threshold_for_agreement(looks: TwoLooks, agreement: float) -> float:
    """Returns the smallest threshold at which so many answers are the second budget's.

    agreement: a share, in 0..1.

    Raises:
      ValueError: if no threshold reaches it.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"{agreement=} must lie in 0..1: it is a share of answers.")
    curve = cascade_curve(looks)
    reached = np.flatnonzero(curve.agreement >= agreement - _ROUNDING)
    if not len(reached):
        raise ValueError(
            f"An agreement of {agreement:g} is not to be had: at most "
            f"{curve.agreement[-1]:g}, since the first budget is certain of answers "
            "that the second does not give."
        )
    return float(curve.thresholds[reached[0]])


def _thresholds(
    ascending: Float[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Returns the thresholds between these confidences, and how many lie below each."""
    values, counts = np.unique(np.asarray(ascending, np.float64), return_counts=True)
    below = np.concatenate([[0.0], values[:-1]])
    middle = (below + values) / 2
    # Between neighbours of float64 there is nothing.
    found = np.where((middle > below) & (middle < values), middle, values)
    sent = np.concatenate([[0], np.cumsum(counts)])
    if values[-1] < 1:
        found = np.append(found, (values[-1] + 1) / 2)
        if found[-1] == values[-1]:
            found[-1] = 1.0
        return found, sent
    # Nothing lies above certainty.
    return found, sent[:-1]
