"""What a policy does on pages that it has not seen: policy.json and a picture.

    {"costs": {budget: relative LLM FLOPs},
     "fixed": [row of each budget], "auto": [row of each cost preference],
     "oracle": row of the cheapest right budgets,
     "shares": {task: {budget: share of its questions}},
     "calibration": {...} or {"not_calibrated": reason}, ...}

A row has accuracies in 0..1 (unweighted means over tasks), and per group the mean
relative cost and number of SELF layers that are on.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from visor_jax.budget import BudgetSet
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.calibration import calibration, calibration_figure
from visor_jax.evals.pages.benchmark import GROUPS
from visor_jax.evals.pages.policy_references import (
    line_at,
    random_accuracy,
    task_at,
    task_table,
)
from visor_jax.evals.policy_choices import oracle_choice
from visor_jax.evals.report import style
from visor_jax.policy.adequacy import Adequacy, Uncalibrated
from visor_jax.policy.choose import choose
from visor_jax.policy.scores import ScoredSamples
from visor_jax.runtime import atomic_write

POLICY_JSON, CALIBRATION = "policy.json", "calibration.png"
PREFERENCES = (-5.0, 0.0, 5.0, 10.0, 20.0, 30.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """Where a policy comes from, and what it is tried on.

    network: checkpoint of the network that it chooses for. pages: how many.
    """

    label: str
    seed: int
    checkpoint: str
    network: str
    train_steps: int
    wall_clock_s: float
    git_commit: str
    pages: int


def write_policy_report(
    logits: Float[np.ndarray, "n budgets"],
    samples: ScoredSamples,
    tasks: Int[np.ndarray, "n"],
    budgets: BudgetSet,
    costs: Float[np.ndarray, "budgets"],
    facts: PolicyFacts,
    *,
    adequacy: Adequacy | Uncalibrated,
    out: Path,
) -> str:
    """Returns the table to print after writing the report into folder `out`.

    Args:
      logits: the policy's, of the samples. tasks: the task of each.
      adequacy: see `policy.adequacy`.
    """
    fixed = [
        {
            "budget": name,
            **choice_row(np.full(len(tasks), k), samples, tasks, budgets, costs),
        }
        for k, name in enumerate(budgets.names)
    ]
    table = task_table(samples.correct, tasks, len(TASK_NAMES))
    auto = []
    for preference in PREFERENCES:
        chosen = choose(logits, costs, preference)
        row = choice_row(chosen, samples, tasks, budgets, costs)
        compared = _references(row, chosen, table, tasks, costs)
        auto.append({"preference": preference, **row, **compared})
    oracle = choice_row(
        oracle_choice(samples.correct, costs), samples, tasks, budgets, costs
    )
    chosen = choose(logits, costs)
    report = {
        **dataclasses.asdict(facts),
        "costs": dict(zip(budgets.names, costs.tolist(), strict=True)),
        "fixed": fixed,
        "auto": auto,
        "oracle": oracle,
        "shares": _shares(chosen, tasks, budgets),
        "calibration": _calibration(
            adequacy, logits, chosen, samples.correct, budgets, costs
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(adequacy, Uncalibrated):
        # That of an earlier report would not belong to this one.
        (out / CALIBRATION).unlink(missing_ok=True)
    else:
        style.save(calibration_figure(report["calibration"]), out / CALIBRATION)
    # Last: whoever finds policy.json finds everything else.
    atomic_write.write_json(out / POLICY_JSON, report)
    return _table(report)


def _calibration(
    adequacy: Adequacy | Uncalibrated,
    logits: Float[np.ndarray, "n budgets"],
    chosen: Int[np.ndarray, "n"],
    correct: Bool[np.ndarray, "n budgets"],
    budgets: BudgetSet,
    costs: Float[np.ndarray, "budgets"],
) -> dict[str, Any]:
    if isinstance(adequacy, Uncalibrated):
        return {"not_calibrated": adequacy.reason}
    predicted = adequacy(logits, chosen, costs)
    return calibration(predicted, chosen, correct, costs, budgets.names)


def _references(
    row: dict[str, Any],
    chosen: Int[np.ndarray, "n"],
    table: Float[np.ndarray, "tasks budgets"],
    tasks: Int[np.ndarray, "n"],
    costs: Float[np.ndarray, "budgets"],
) -> dict[str, Any]:
    """Returns what others reach at the same cost: see `policy_references`."""
    hard = table[[TASK_NAMES.index(name) for name in GROUPS["hard"]]]
    cost = row["cost"]["hard"]
    return {
        "random": random_accuracy(chosen, table, tasks),
        "at_equal_cost": {
            "line": {"hard": line_at(cost, costs, hard.mean(axis=0))},
            "task": {"hard": task_at(cost, costs, hard)},
        },
    }


def choice_row(
    chosen: Int[np.ndarray, "n"],
    samples: ScoredSamples,
    tasks: Int[np.ndarray, "n"],
    budgets: BudgetSet,
    costs: Float[np.ndarray, "budgets"],
) -> dict[str, Any]:
    """Returns accuracy, relative cost and SELF layers when these budgets are chosen.

    Every number is a mean over the tasks of a group; "mixed" is half easy, half hard.
    """
    layers = np.array([len(budget.self_layers) for budget in budgets])
    right = samples.correct[np.arange(len(chosen)), chosen]
    values = {
        "accuracy": right,
        "cost": costs[chosen],
        "self_layers": layers[chosen],
    }
    row: dict[str, Any] = {}
    for name, each in values.items():
        means = [float(each[tasks == t].mean()) for t in range(len(TASK_NAMES))]
        per_task = dict(zip(TASK_NAMES, means, strict=True))
        groups = {
            group: float(np.mean([per_task[task] for task in members]))
            for group, members in GROUPS.items()
        }
        row[name] = {**groups, "mixed": float(np.mean(list(groups.values())))}
        if name == "accuracy":
            row["tasks"] = per_task
    return row


def _shares(
    chosen: np.ndarray, tasks: np.ndarray, budgets: BudgetSet
) -> dict[str, dict[str, float]]:
    shares = {}
    for number, task in enumerate(TASK_NAMES):
        counts = np.bincount(chosen[tasks == number], minlength=len(budgets))
        parts = (counts / counts.sum()).tolist()
        shares[task] = dict(zip(budgets.names, parts, strict=True))
    return shares


def _calibration_text(found: dict[str, Any]) -> str:
    if "not_calibrated" in found:
        return f"not calibrated: {found['not_calibrated']}"
    error = found["expected_calibration_error"]
    return f"calibration error {100 * error:.1f} points"


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{'budget':<14} {'easy':>6} {'hard':>6} {'SELF easy':>9} {'SELF hard':>9} "
        f"{'cost easy':>9} {'cost hard':>9} {'mixed':>6}"
    ]
    named = [(row["budget"], row) for row in report["fixed"]]
    named += [(f"auto {row['preference']:+g}", row) for row in report["auto"]]
    named.append(("oracle", report["oracle"]))
    for name, row in named:
        accuracy, layers, cost = row["accuracy"], row["self_layers"], row["cost"]
        lines.append(
            f"{name:<14} {100 * accuracy['easy']:6.2f} {100 * accuracy['hard']:6.2f} "
            f"{layers['easy']:9.2f} {layers['hard']:9.2f} "
            f"{cost['easy']:9.3f} {cost['hard']:9.3f} {cost['mixed']:6.3f}"
        )
    lines.append("hard at the cost of auto:  line, task name, random policy")
    for row in report["auto"]:
        same = row["at_equal_cost"]
        lines.append(
            f"  auto {row['preference']:<+8g}{100 * row['accuracy']['hard']:6.2f}"
            f"   {100 * same['line']['hard']:6.2f} {100 * same['task']['hard']:6.2f} "
            f"{100 * row['random']['hard']:6.2f}"
        )
    lines.append(
        "auto: the policy at a cost preference; cost: LLM FLOPs relative to the "
        f"dearest budget; {_calibration_text(report['calibration'])}"
    )
    return "\n".join(lines)
