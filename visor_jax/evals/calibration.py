"""Does a policy know what it needs? Predicted against observed, in bins and overall.

predicted: `policy.adequacy`, the chance that the chosen budget is good enough.
observed: whether it is (`policy.labels`: where the full budget is right, it is too).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from visor_jax.evals.report import style
from visor_jax.evals.report.tables import budget_name
from visor_jax.policy.labels import adequate

BINS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Samples whose prediction lies in low..high (the last bin includes its end)."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


def calibration_bins(
    predicted: Float[np.ndarray, "n"], observed: Bool[np.ndarray, "n"], bins: int = BINS
) -> list[CalibrationBin]:
    """Returns the bins of equal width that hold samples.

    Raises:
      ValueError: for predictions outside 0..1, or no samples.
    """
    if len(predicted) == 0 or len(predicted) != len(observed):
        raise ValueError(f"{len(predicted)} predictions for {len(observed)} outcomes.")
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("Predictions must be probabilities, in 0..1.")
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    return [
        CalibrationBin(
            low=i / bins,
            high=(i + 1) / bins,
            count=int(np.sum(index == i)),
            predicted=float(predicted[index == i].mean()),
            observed=float(observed[index == i].mean()),
        )
        for i in np.unique(index).tolist()
    ]


def expected_calibration_error(bins: list[CalibrationBin]) -> float:
    """Returns the mean distance of predicted and observed, weighted by samples.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    total = sum(each.count for each in bins)
    gaps = (each.count * abs(each.predicted - each.observed) for each in bins)
    return sum(gaps) / total


def calibration(
    predicted: Float[np.ndarray, "n"],
    chosen: Int[np.ndarray, "n"],
    correct: Bool[np.ndarray, "n budgets"],
    costs: Float[np.ndarray, "budgets"],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Returns the calibration of the choices as JSON values: bins, ECE, per budget."""
    picked = np.arange(len(chosen)), chosen
    enough = adequate(correct.astype(np.float64), costs)[picked]
    bins = calibration_bins(predicted, enough)
    per_budget = {}
    for k, name in enumerate(names):
        mine = chosen == k
        if mine.any():
            per_budget[name] = {
                "count": int(mine.sum()),
                "predicted": float(predicted[mine].mean()),
                "adequate": float(enough[mine].mean()),
                "correct": float(correct[picked][mine].mean()),
            }
    return {
        "samples": len(chosen),
        "expected_calibration_error": expected_calibration_error(bins),
        "predicted": float(predicted.mean()),
        "adequate": float(enough.mean()),
        "bins": [dataclasses.asdict(each) for each in bins],
        "per_budget": per_budget,
    }


def calibration_figure(found: dict[str, Any]) -> Figure:
    """Returns a picture of the bins (area: samples in them) and the chosen budgets."""
    drawing = style.figure(8.4, 4.2)
    left, right = drawing.subplots(1, 2, width_ratios=[1, 1])
    style.plain_axes(left)
    left.plot([0, 1], [0, 1], color=style.GREY, linewidth=1)
    bins = found["bins"]
    sizes = [max(12, 900 * each["count"] / found["samples"]) for each in bins]
    left.scatter(
        [each["predicted"] for each in bins],
        [each["observed"] for each in bins],
        s=sizes,
        color=style.BLUE,
        alpha=0.75,
    )
    left.set(xlim=(0, 1.05), ylim=(0, 1.05))
    left.set_xlabel("predicted: chosen budget is enough")
    left.set_ylabel("observed")
    style.plain_axes(right)
    names = [budget_name({"budget": name}) for name in found["per_budget"]]
    rows = found["per_budget"].values()
    places = np.arange(len(names))
    for shift, key, colour in (
        (-0.2, "predicted", style.ORANGE),
        (0.2, "adequate", style.BLUE),
    ):
        heights = [each[key] for each in rows]
        right.bar(places + shift, heights, 0.38, color=colour, label=key)
    right.set_xticks(places, names, rotation=90, fontsize=8)
    right.set_ylim(0, 1.15)
    right.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    error = 100 * found["expected_calibration_error"]
    title = f"Calibration of the chosen budgets, ECE {error:.1f} points"
    drawing.text(0.08, 0.92, title, fontsize=12, weight="bold")
    # As much below as the budgets' names take.
    drawing.tight_layout(rect=(0.01, 0.01, 0.99, 0.9), w_pad=2)
    return drawing
