"""Rows of a report for what a policy chooses, and for what it is compared with.

A row is like that of a budget, only that every question has a budget of its own: costs
and SELF layers are means, over half easy and half hard questions; "by_group" has them
for each. Its time is predicted: what the budgets' own times give, mixed as they were
chosen, without the policy and the grouping (`visor_jax.timing.engine` measures both).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from visor_jax.evals.pages.benchmark import GROUPS
from visor_jax.evals.statistics import Score, spread

Row = dict[str, Any]
Table = Float[np.ndarray, "pages tasks"]
# From the tables of networks that were trained alike to scores of groups and tasks.
Scorer = Callable[[Sequence[Table], Sequence[str]], dict[str, Score]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyChoices:
    """What a policy chose for every question of an evaluation set.

    label: "policy:<name>". choices: {name of the row: class of the budget for (pages,
    tasks)}.
    """

    label: str
    choices: Mapping[str, Int[np.ndarray, "pages tasks"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyMember:
    """One of several policies that differ in their seed and network alone.

    fixed: rows of its network at each budget, in class order. correct: what the network
    answers at each of them, 1 right, 0 wrong. seed: of the policy's training.
    """

    chosen: PolicyChoices
    fixed: Sequence[Row]
    correct: Sequence[Table]
    seed: int

    def right(self, name: str) -> Table:
        """Returns what is right where every question has its budget of this choice."""
        classes = self.chosen.choices[name]
        return np.take_along_axis(np.stack(self.correct), classes[None], axis=0)[0]


def policy_rows(
    members: Sequence[PolicyMember], score: Scorer, task_names: Sequence[str]
) -> list[Row]:
    """Returns a row for each of the choices, of one policy or the mean of several."""
    return [
        _row(name, members, score, task_names) for name in members[0].chosen.choices
    ]


def _row(
    name: str,
    members: Sequence[PolicyMember],
    score: Scorer,
    task_names: Sequence[str],
) -> Row:
    tables = [member.right(name) for member in members]
    scores = score(tables, task_names)
    by_group = _mean_of(
        [_by_group(m.chosen.choices[name], m.fixed, task_names) for m in members]
    )
    mean = {
        key: float(np.mean([values[key] for values in by_group.values()]))
        for key in next(iter(by_group.values()))
    }
    first = members[0].fixed[0]
    before = first["flops"]["tower"] + first["flops"]["projector"]
    dense = first["flops"]["llm_prefill"] * first["llm_saving"]
    row = {
        "model": members[0].chosen.label,
        "budget": name,
        "self_layers_on": mean["self_layers_on"],
        "accuracy": {g: scores[g].value for g in GROUPS},
        "tasks": {t: scores[t].value for t in task_names},
        "n": first["n"],
        "flops": {
            **first["flops"],
            "llm_prefill": mean["llm_prefill"],
            "decode_per_token": mean["decode_per_token"],
        },
        "llm_saving": dense / mean["llm_prefill"],
        "end_to_end_saving": (before + dense) / (before + mean["llm_prefill"]),
        "ms_per_sample": mean["ms_per_sample"],
        "ms_is": "predicted",
        "intervals": {k: [s.low, s.high] for k, s in scores.items()},
        "seeds": [member.seed for member in members],
        "by_group": by_group,
    }
    if len(members) > 1:
        each = [score([table], task_names) for table in tables]
        row["spread"] = spread({k: [s[k].value for s in each] for k in scores})
    return row


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


def _mean_of(each: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Returns the mean of several `_by_group`."""
    return {
        group: {key: float(np.mean([e[group][key] for e in each])) for key in values}
        for group, values in each[0].items()
    }
