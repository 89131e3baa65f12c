"""The rows of the comparison: scores of all seeds, costs, and times.

Costs are shares of the dense network's, of the same prompt. The row of a policy mixes
those of its budgets as they were chosen, every group of tasks counting alike; its time
is predicted from theirs, without the policy's own and without grouping.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from visor_jax.budget import Budget
from visor_jax.evals.baselines.conditions import (
    AUTO,
    UNIVERSAL,
    VISOR,
    Condition,
)
from visor_jax.evals.baselines.measure import Costs
from visor_jax.evals.baselines.outcome import Outcome
from visor_jax.evals.baselines.times import Times
from visor_jax.evals.statistics import scores_by_name, spread

Row = dict[str, Any]
Groups = Mapping[str, Sequence[str]]


def row_of(
    condition: Condition,
    outcomes: Sequence[Outcome],
    cost: Costs,
    groups: Groups,
    times: Times,
) -> Row:
    """Returns the row of a condition; outcomes: of each seed."""
    return {
        "name": condition.name,
        "network": condition.network,
        "kind": condition.kind,
        "budget": condition.budget.name,
        "reduce": condition.reduce,
        "share": condition.share,
        "matched": condition.matched,
        "label": condition.label,
        "image_tokens": float(np.mean(cost.image_lengths)),
        **_scores(outcomes, groups),
        **_costs(cost.flops),
        "cache_bytes": cost.cache_bytes,
        "ms": {str(rows): ms for rows, ms in times[condition.name].items()},
        "ms_is": "measured",
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a policy chose: of each example a place in its budgets."""

    budgets: tuple[Budget, ...]
    classes: Int[np.ndarray, "n"]

    def outcome(self, at_budgets: Sequence[Outcome]) -> Outcome:
        """Returns the answers where every example has its own budget."""
        scores = np.array([each.scores for each in at_budgets])
        taken = np.take_along_axis(scores, self.classes[None], axis=0)[0]
        return dataclasses.replace(
            at_budgets[0], name="VISOR auto", scores=tuple(taken.tolist()), answers={}
        )

    def mixture(self, outcome: Outcome, groups: Groups) -> np.ndarray:
        """Returns the share of each budget, every group counting alike."""
        task = np.array(outcome.task)
        shares = []
        for names in groups.values():
            mine = np.isin(task, [outcome.tasks.index(name) for name in names])
            counts = np.bincount(self.classes[mine], minlength=len(self.budgets))
            shares.append(counts / mine.sum())
        return np.mean(shares, axis=0)


def auto_row(
    chosen: Sequence[Chosen],
    outcomes: Sequence[Sequence[Outcome]],
    groups: Groups,
    fixed: Mapping[str, Row],
) -> Row:
    """Returns the row of policies.

    Args:
      chosen, outcomes: of each seed; outcomes at the policy's budgets.
      fixed: rows of VISOR's budgets, by budget.
    """
    found = [c.outcome(o) for c, o in zip(chosen, outcomes, strict=True)]
    mixture = np.mean(
        [c.mixture(o, groups) for c, o in zip(chosen, found, strict=True)], axis=0
    )
    rows = [fixed[budget.name] for budget in chosen[0].budgets]

    def mixed(values: Sequence[float]) -> float:
        return float(mixture @ np.array(values))

    flops = {k: mixed([row["flops"][k] for row in rows]) for k in rows[0]["flops"]}
    return {
        "name": "VISOR auto",
        "network": UNIVERSAL,
        "kind": AUTO,
        "budget": "auto",
        "reduce": "none",
        "share": None,
        "matched": None,
        "label": None,
        "image_tokens": rows[0]["image_tokens"],
        **_scores(found, groups),
        **_costs(flops),
        "cache_bytes": mixed([row["cache_bytes"] for row in rows]),
        "ms": {k: mixed([row["ms"][k] for row in rows]) for k in rows[0]["ms"]},
        "ms_is": "predicted",
        "chosen": {
            budget.name: share
            for budget, share in zip(chosen[0].budgets, mixture.tolist(), strict=True)
        },
    }


def best_at(rows: Sequence[Row], most: Row, measure: str, group: str) -> Row | None:
    """Returns the most accurate of the rows that cost no more; None if all do.

    Args:
      measure: see `cost_of`. group: whose accuracy counts.
    """
    cheap = [row for row in rows if cost_of(row, measure) <= cost_of(most, measure)]
    return max(cheap, key=lambda row: row["accuracy"][group], default=None)


def cost_of(row: Row, measure: str) -> float:
    """Returns "llm" or "end_to_end" FLOPs as % of dense, or ms: "ms1", "ms32"."""
    if measure.startswith("ms"):
        return row["ms"][measure.removeprefix("ms")]
    return 100 * row[f"{measure}_share"]


def visor_rows(rows: Sequence[Row]) -> dict[str, Row]:
    """Returns the rows of VISOR alone, by budget."""
    return {row["budget"]: row for row in rows if row["kind"] == VISOR}


def _scores(outcomes: Sequence[Outcome], groups: Groups) -> dict[str, Any]:
    tables, tasks = [each.table for each in outcomes], outcomes[0].tasks
    mean = scores_by_name(tables, tasks, groups)
    found = {
        "accuracy": {g: mean[g].value for g in groups},
        "tasks": {t: mean[t].value for t in tasks},
        "intervals": {name: [s.low, s.high] for name, s in mean.items()},
        "seeds": [each.seed for each in outcomes],
    }
    if len(outcomes) > 1:
        each = [scores_by_name([table], tasks, groups) for table in tables]
        values = {name: [scores[name].value for scores in each] for name in mean}
        found["spread"] = spread(values)
    return found


def _costs(flops: Mapping[str, float]) -> dict[str, Any]:
    return {
        "flops": dict(flops),
        "llm_share": flops["llm_prefill"] / flops["dense_llm_prefill"],
        "end_to_end_share": flops["end_to_end"] / flops["dense_end_to_end"],
    }
