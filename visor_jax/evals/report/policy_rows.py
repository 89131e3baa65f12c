"""Rows of a report for what a policy chooses, and for what it is compared with.

A row is like that of a budget, only that every question has a budget of its own: costs
and SELF layers are means, every group (easy, hard) counting alike; "by_group" has them
for each. Its time is predicted: what the budgets' own times give, mixed as they were
chosen, without the policy and the grouping (`visor_jax.timing.engine` measures both).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from visor_jax.evals.predictions import CROP_SELECTION, Predictions
from visor_jax.evals.statistics import ScoreTable, scores_by_name, spread

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyChoices:
    """What a policy chose for every example of a benchmark.

    label: "policy:<name>". choices: {name of the row: class of each example's budget}.
    """

    label: str
    choices: Mapping[str, Int[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyReplicate:
    """One of several policies that differ in their seed and network alone.

    fixed: rows of its network at each budget, in class order; predictions: what the
    network answers at them. seed: of the policy's training.
    """

    chosen: PolicyChoices
    fixed: Sequence[Row]
    predictions: Predictions
    seed: int

    def table(self, name: str) -> ScoreTable:
        """Returns the scores where every example has its budget of this choice."""
        classes, scores = self.chosen.choices[name], self.predictions.main_scores
        taken = np.take_along_axis(scores, classes[None], axis=0)[0]
        return self.predictions.table(taken)


def policy_rows(replicates: Sequence[PolicyReplicate]) -> list[Row]:
    """Returns a row for each of the choices, of one policy or the mean of several."""
    return [_row(name, replicates) for name in replicates[0].chosen.choices]


def _row(name: str, replicates: Sequence[PolicyReplicate]) -> Row:
    asked = replicates[0].predictions
    tables = [each.table(name) for each in replicates]
    scores = scores_by_name(tables, asked.tasks, asked.groups)
    by_group = _mean_of([_by_group(each, name) for each in replicates])
    mean = {
        key: float(np.mean([values[key] for values in by_group.values()]))
        for key in next(iter(by_group.values()))
    }
    first = replicates[0].fixed[0]
    before = first["flops"]["tower"] + first["flops"]["projector"]
    own = first["flops"].get(CROP_SELECTION, 0)
    dense = first["flops"]["llm_prefill"] * first["llm_saving"]
    fixed = before + own + first["flops"]["llm_prefill"]
    dense_end_to_end = fixed * first["end_to_end_saving"]
    row = {
        "model": replicates[0].chosen.label,
        "budget": name,
        "self_layers_on": mean["self_layers_on"],
        "accuracy": {g: scores[g].value for g in asked.groups},
        "tasks": {t: scores[t].value for t in asked.tasks},
        "n": first["n"],
        "flops": {
            **first["flops"],
            "llm_prefill": mean["llm_prefill"],
            "decode_per_token": mean["decode_per_token"],
        },
        "llm_saving": dense / mean["llm_prefill"],
        "end_to_end_saving": dense_end_to_end / (before + own + mean["llm_prefill"]),
        "ms_per_sample": mean["ms_per_sample"],
        "ms_is": "predicted",
        "intervals": {k: [s.low, s.high] for k, s in scores.items()},
        "seeds": [each.seed for each in replicates],
        "by_group": by_group,
    }
    if len(replicates) > 1:
        each = [scores_by_name([t], asked.tasks, asked.groups) for t in tables]
        row["spread"] = spread({k: [s[k].value for s in each] for k in scores})
    return row


def _by_group(replicate: PolicyReplicate, name: str) -> dict[str, dict[str, float]]:
    fixed, classes = replicate.fixed, replicate.chosen.choices[name]
    of_budget = {
        "self_layers_on": [row["self_layers_on"] for row in fixed],
        "llm_prefill": [row["flops"]["llm_prefill"] for row in fixed],
        "decode_per_token": [row["flops"]["decode_per_token"] for row in fixed],
        "ms_per_sample": [row["ms_per_sample"] for row in fixed],
    }
    tasks = np.array(replicate.predictions.example_tasks)
    found = {}
    for group, names in replicate.predictions.groups.items():
        mine = classes[np.isin(tasks, names)]
        found[group] = {
            key: float(np.asarray(values)[mine].mean())
            for key, values in of_budget.items()
        }
    return found


def _mean_of(each: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Returns the mean of several `_by_group`."""
    return {
        group: {key: float(np.mean([e[group][key] for e in each])) for key in values}
        for group, values in each[0].items()
    }
