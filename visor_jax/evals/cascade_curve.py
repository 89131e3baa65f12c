"""What a cascade gains: accuracy against cost, within each task, beside mere mixing.

Every example has been answered in both budgets, with confidences (`predict(...,
scored=True)`), so that every threshold can be tried without asking again. The cost is
that of the LLM up to the end of the answer, both looks of it, relative to asking the
second budget at once:

    one look   prefill and decoding in the first budget
    two        that, the layers behind the trunk in the second, and decoding again
    mixing     as many are asked in the second budget at once, drawn at random

Across tasks a cascade may gain by knowing the hard ones from the easy ones, as a task's
name would. Within a task it gains only what it knows of single examples.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from visor_jax.budget import Budget
from visor_jax.evals.predictions import Predictions
from visor_jax.inference.routing.cascade_calibration import (
    CascadeCurve,
    TwoLooks,
    cascade_curve,
)

# Of a curve that is written down.
_POINTS = 41


def two_looks(predictions: Predictions, first: Budget, second: Budget) -> TwoLooks:
    """Returns the examples that both budgets answered.

    Costs are relative to the mean cost of asking the second budget at once.

    Raises:
      ValueError: if the answers were not scored, or no example was answered.
    """
    if predictions.looks is None:
        raise ValueError(
            "A cascade needs to know how sure answers are: predict(..., scored=True)."
        )
    asked = predictions.at((first, second))
    known = answered(asked)
    if not known.any():
        raise ValueError("No example was answered in both budgets.")
    at_once = (asked.flops["llm_prefill"] + asked.looks["decode"])[:, known]
    again = (asked.looks["behind_trunk"] + asked.looks["decode"])[1, known]
    unit = at_once[1].mean()
    texts = np.array(asked.answers, object)[:, known]
    return TwoLooks(
        confidence=asked.looks["confidence"][0, known],
        scores=asked.main_scores[:, known],
        agrees=(texts[0] == texts[1]).astype(bool),
        first_cost=at_once[0] / unit,
        again_cost=again / unit,
    )


def answered(predictions: Predictions) -> Bool[np.ndarray, "n"]:
    """Returns which examples have scored answers at every budget."""
    return np.isfinite(predictions.looks["confidence"]).all(axis=0)


def mixing_at(cost: Float[np.ndarray, "k"], looks: TwoLooks) -> Float[np.ndarray, "k"]:
    """Returns the mean score of mixing both budgets at random, at these mean costs.

    The second budget is asked at once there: nobody pays for two looks. Costs are in
    units of it, as `two_looks` has them; above 1 there is nothing more to buy.
    """
    first, second = looks.scores.mean(axis=1)
    start = looks.first_cost.mean()
    if not start < 1:
        raise ValueError(
            f"The first budget costs {start:.3g} of the second: it must be cheaper."
        )
    share = np.clip((np.asarray(cost) - start) / (1 - start), 0, 1)
    return first + share * (second - first)


def curves_by_task(
    predictions: Predictions, first: Budget, second: Budget
) -> dict[str, dict[str, list[float]]]:
    """Returns {task: curve} as JSON values; thresholds are of each task alone.

    A curve has "threshold", "again" (share), "accuracy", "cost" and "mixing", which is
    the accuracy of mixing both budgets at random at that cost.

    Raises:
      ValueError: as `two_looks`.
    """
    found = {}
    tasks = np.array(predictions.example_tasks)
    for task in predictions.tasks:
        looks = two_looks(_only(predictions, tasks == task), first, second)
        found[task] = _as_json(cascade_curve(looks), looks)
    return found


def at_threshold(
    predictions: Predictions, first: Budget, second: Budget, threshold: float
) -> dict[str, dict[str, float]]:
    """Returns {task or group: numbers} of a cascade with this threshold.

    Of a task "first", "second" and "cascade" are mean scores, "again" the share that
    looks twice, "cost" relative to the second budget, and "mixing" what mixing at
    random scores within that task at that cost. Those of a group are means over tasks.
    """
    found: dict[str, dict[str, float]] = {}
    tasks = np.array(predictions.example_tasks)
    for task in predictions.tasks:
        looks = two_looks(_only(predictions, tasks == task), first, second)
        again = looks.confidence < threshold
        cost = float((looks.first_cost + again * looks.again_cost).mean())
        found[task] = {
            "first": float(looks.scores[0].mean()),
            "second": float(looks.scores[1].mean()),
            "cascade": float(np.where(again, looks.scores[1], looks.scores[0]).mean()),
            "again": float(again.mean()),
            "cost": cost,
            "mixing": float(mixing_at(np.array([cost]), looks)[0]),
        }
    for group, names in predictions.groups.items():
        found[group] = {
            key: float(np.mean([found[name][key] for name in names]))
            for key in found[names[0]]
        }
    return found


def _as_json(curve: CascadeCurve, looks: TwoLooks) -> dict[str, list[float]]:
    """Returns at most `_POINTS` of a curve, evenly spread, its ends among them."""
    count = len(curve.thresholds)
    points = np.unique(np.linspace(0, count - 1, _POINTS).round().astype(int))
    columns: dict[str, Any] = {
        "threshold": curve.thresholds,
        "again": curve.sent / len(looks.confidence),
        "accuracy": curve.accuracy,
        "cost": curve.cost,
        "mixing": mixing_at(curve.cost, looks),
    }
    return {name: values[points].tolist() for name, values in columns.items()}


def _only(predictions: Predictions, mine: Bool[np.ndarray, "n"]) -> Predictions:
    return predictions.of_examples(np.flatnonzero(mine))
