"""Rows of a report for what a policy chooses, and for what it is compared with.

A row is like that of a budget, only that every question has a budget of its own: costs
and SELF layers are means, over half easy and half hard questions; "by_group" has them
for each. The time is what the budgets' own times give, mixed as they were chosen
(`visor_jax.engine_time` measures it).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from visor_jax.evals.evaluation_set import GROUPS

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyChoices:
    """What a policy chose for every question of an evaluation set.

    label: "policy:<objective>". choices: {name of the row: class of the budget for
    (pages, tasks)}.
    """

    label: str
    choices: Mapping[str, Int[np.ndarray, "pages tasks"]]


def policy_rows(
    chosen: PolicyChoices,
    fixed: Sequence[Row],
    correct: Sequence[np.ndarray],
    score: Any,
    task_names: Sequence[str],
) -> list[Row]:
    """Returns a row for each of the choices.

    Args:
      fixed: rows of the same network at each budget, in class order.
      correct: of each budget, (pages, tasks) 1 right, 0 wrong.
      score: from such a table to scores of groups and tasks.
    """
    table = np.stack(correct)
    dense = fixed[0]["flops"]["llm_prefill"] * fixed[0]["llm_saving"]
    rows = []
    for name, classes in chosen.choices.items():
        right = np.take_along_axis(table, classes[None], axis=0)[0]
        scores = score(right, task_names)
        by_group = _by_group(classes, fixed, task_names)
        mean = {
            key: float(np.mean([values[key] for values in by_group.values()]))
            for key in next(iter(by_group.values()))
        }
        first = fixed[0]["flops"]
        before = first["tower"] + first["projector"]
        rows.append(
            {
                "model": chosen.label,
                "budget": name,
                "self_layers_on": mean["self_layers_on"],
                "accuracy": {g: scores[g].value for g in GROUPS},
                "tasks": {t: scores[t].value for t in task_names},
                "n": fixed[0]["n"],
                "flops": {
                    **first,
                    "llm_prefill": mean["llm_prefill"],
                    "decode_per_token": mean["decode_per_token"],
                },
                "llm_saving": dense / mean["llm_prefill"],
                "end_to_end_saving": (before + dense) / (before + mean["llm_prefill"]),
                "ms_per_sample": mean["ms_per_sample"],
                "intervals": {k: [s.low, s.high] for k, s in scores.items()},
                "seeds": fixed[0]["seeds"],
                "by_group": by_group,
            }
        )
    return rows


def _by_group(
    classes: Int[np.ndarray, "pages tasks"],
    fixed: Sequence[Row],
    task_names: Sequence[str],
) -> dict[str, dict[str, float]]:
    of_budget = {
        "self_layers_on": [row["self_layers_on"] for row in fixed],
        "llm_prefill": [row["flops"]["llm_prefill"] for row in fixed],
        "decode_per_token": [row["flops"]["decode_per_token"] for row in fixed],
        "ms_per_sample": [row["ms_per_sample"] for row in fixed],
    }
    found = {}
    for group, names in GROUPS.items():
        mine = classes[:, [task_names.index(name) for name in names]]
        found[group] = {
            key: float(np.asarray(values)[mine].mean())
            for key, values in of_budget.items()
        }
    return found


def mean_of_seeds(rows: Sequence[Row]) -> Row:
    """Returns the mean of rows of one policy and name, with the spread of groups."""
    if len(rows) == 1:
        return rows[0]
    merged = _mean(rows)
    merged["seeds"] = [seed for row in rows for seed in row["seeds"]]
    merged["spread"] = {
        name: {"std": float(np.std(values, ddof=1)), "values": values}
        for name in (*GROUPS, *rows[0]["tasks"])
        for values in [[{**r["accuracy"], **r["tasks"]}[name] for r in rows]]
    }
    return merged


def _mean(values: Sequence[Any]) -> Any:
    """Returns the mean of numbers, inside dicts and lists too; other things as is."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_mean(items) for items in zip(*values, strict=True)]
    if isinstance(first, int | float):
        return float(np.mean(values))
    return first
