"""Rows of a report for what a cascade answers, beside those of policies.

A row is like that of a policy (`policy_rows`): every question has a budget of its own.
Where a cascade looks twice, it pays for both looks: the first one's prefill and the
writing of an answer that does not stand, and the second one's layers behind the trunk.
That all counts before the first token of the final answer, so it is in "llm_prefill"
and in the savings. Its time is predicted, and at most that: the budgets' own times, as
if the tower ran for both looks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visor_jax.budget import Budget
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report.policy_rows import (
    PolicyChoices,
    PolicyReplicate,
    Row,
    policy_rows,
)
from visor_jax.inference.routing.cascade import CASCADE, Cascade

LABEL = f"policy:{CASCADE}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CascadeAnswers:
    """A cascade, and what a network answers in its two budgets, scored."""

    cascade: Cascade
    predictions: Predictions

    @property
    def classes(self) -> np.ndarray:
        """Which look's answer stands, of each example: 0 or 1."""
        sure = self.predictions.looks["confidence"][0]
        # What could not be answered is not sure, and costs nothing.
        return np.where(np.isnan(sure), 0, sure < self.cascade.threshold).astype(int)


def cascade_rows(
    of_runs: Sequence[tuple[CascadeAnswers, Sequence[Row], int]],
) -> list[Row]:
    """Returns the row of the cascades of several networks that were trained alike.

    Args:
      of_runs: of each its answers, the rows of its two budgets, and its seed.
    """
    if not of_runs:
        return []
    replicates = [
        PolicyReplicate(
            chosen=PolicyChoices(label=LABEL, choices={CASCADE: answers.classes}),
            fixed=[rows[0], _both_looks(answers.predictions, rows)],
            predictions=answers.predictions,
            seed=seed,
        )
        for answers, rows, seed in of_runs
    ]
    (row,) = policy_rows(replicates)
    names = [answers.cascade.name for answers, _, _ in of_runs]
    again = [float(answers.classes.mean()) for answers, _, _ in of_runs]
    return [{**row, "cascades": names, "looked_again": float(np.mean(again))}]


def _both_looks(predictions: Predictions, rows: Sequence[Row]) -> Row:
    """Returns the second budget's row, as it costs when it is the second look."""
    first, second = rows

    def mean(column: str, look: int) -> float:
        return float(np.mean(predictions.looks[column][look]))

    prefill = first["flops"]["llm_prefill"]
    prefill += mean("decode", 0) + mean("behind_trunk", 1)
    flops: Mapping[str, Any] = {**second["flops"], "llm_prefill": prefill}
    ms = first["ms_per_sample"] + second["ms_per_sample"]
    return {**second, "flops": flops, "ms_per_sample": ms}


def check_evaluated(cascade: Cascade, budgets: Sequence[Budget]) -> None:
    """Raises ValueError unless a report has rows of both budgets."""
    lacking = [each.name for each in cascade.budgets if each not in budgets]
    if lacking:
        raise ValueError(
            f"{cascade.name} looks in {', '.join(lacking)}, which this report leaves "
            "out: add it to --budgets."
        )
