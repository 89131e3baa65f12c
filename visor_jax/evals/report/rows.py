"""The rows of a report: one per model and budget, replicates averaged.

A row says what its model scored, what a forward pass costs and how long it took. Rows
of one model and budget from replicates (networks that differ in their training seed
alone) become one row of means: "spread" says how they differ, "intervals" how sure the
mean is. Rows of one network have intervals over what was asked about, rows of several
over that and seeds (`evals.statistics`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visor_jax.budget import Budget
from visor_jax.evals.predictions import CROP_SELECTION, DENSE_END_TO_END, Predictions
from visor_jax.evals.report.cascade_rows import CascadeAnswers, cascade_rows
from visor_jax.evals.report.policy_rows import (
    PolicyChoices,
    PolicyReplicate,
    policy_rows,
)
from visor_jax.evals.statistics import scores_by_name, spread

Row = dict[str, Any]
# A dense network at budgets that nobody trained it for.
UNTRAINED = "untrained"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Where a network comes from.

    wall_clock_s: seconds of its training; train_steps: steps of it.
    checkpoint: path as the user gave it; git_commit: of the code that trained it.
    """

    preset: str
    seed: int
    train_steps: int
    wall_clock_s: float
    checkpoint: str = ""
    git_commit: str = "unknown"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """One trained network with its answers and times.

    label: "universal", "dense", "dedicated:<budget>" or "stage:<name>", also of a
    policy's network.
    network: stands for the parameters; the same for a network and for its policies.
    ms_per_sample: milliseconds per prompt at each budget, measured.
    policy: what the policy of a checkpoint chose, None if it has none; `facts` are then
    those of the policy.
    cascade: what a cascade answered, None if none was asked for.
    """

    label: str
    facts: RunFacts
    network: str
    predictions: Predictions
    ms_per_sample: Mapping[Budget, float]
    policy: PolicyChoices | None = None
    cascade: CascadeAnswers | None = None

    def model_at(self, budget: Budget) -> str:
        """Returns what the row of this budget is called."""
        full = max(self.predictions.budgets, key=lambda each: each.size)
        is_dense = self.label == "dense" and budget != full
        return UNTRAINED if is_dense else self.label


def make_rows(runs: Sequence[EvaluatedRun]) -> list[Row]:
    """Returns one row per model and budget, in the order in which they first appear.

    Which runs may share a row, `evals.checkpoints` checks.
    """
    replicates: dict[tuple[str, Budget], dict[str, EvaluatedRun]] = {}
    # The network of a policy is one that was trained before: it counts once, with the
    # facts of its own training where they are known.
    for run in sorted(runs, key=lambda run: run.policy is not None):
        for budget in run.predictions.budgets:
            of_row = replicates.setdefault((run.model_at(budget), budget), {})
            of_row.setdefault(run.network, run)
    order = list(dict.fromkeys(run.label for run in runs))
    order.append(UNTRAINED)
    keys = sorted(replicates, key=lambda key: order.index(key[0]))
    fixed = [_row(list(replicates[key].values()), key[1]) for key in keys]
    return [*fixed, *_policy_rows(runs), *_cascade_rows(runs)]


def _cascade_rows(runs: Sequence[EvaluatedRun]) -> list[Row]:
    of_runs = []
    for run in runs:
        if run.cascade is not None:
            own = dataclasses.replace(run, predictions=run.cascade.predictions)
            rows = [_row([own], budget) for budget in run.cascade.cascade.budgets]
            of_runs.append((run.cascade, rows, run.facts.seed))
    return cascade_rows(of_runs)


def _policy_rows(runs: Sequence[EvaluatedRun]) -> list[Row]:
    replicates: dict[str, list[PolicyReplicate]] = {}
    for run in runs:
        if run.policy is not None:
            replicate = PolicyReplicate(
                chosen=run.policy,
                fixed=[_row([run], budget) for budget in run.predictions.budgets],
                predictions=run.predictions,
                seed=run.facts.seed,
            )
            replicates.setdefault(run.policy.label, []).append(replicate)
    return [row for each in replicates.values() for row in policy_rows(each)]


def _row(runs: Sequence[EvaluatedRun], budget: Budget) -> Row:
    """Returns the row of replicates at one budget."""
    asked = runs[0].predictions
    at_budget = [run.predictions.budgets.index(budget) for run in runs]
    tables = [
        run.predictions.table(run.predictions.main_scores[row])
        for run, row in zip(runs, at_budget, strict=True)
    ]
    mean = scores_by_name(tables, asked.tasks, asked.groups)
    times = [run.ms_per_sample[budget] for run in runs]
    counts = tables[0].counts.sum(axis=0).tolist()
    row = {
        "model": runs[0].model_at(budget),
        "budget": budget.name,
        "self_layers_on": len(budget.self_layers),
        "accuracy": {g: mean[g].value for g in asked.groups},
        "tasks": {t: mean[t].value for t in asked.tasks},
        "n": dict(zip(asked.tasks, counts, strict=True)),
        **_costs(asked.mean_flops(budget)),
        "ms_per_sample": float(np.mean(times)),
        "ms_is": "measured",
        "intervals": {name: [s.low, s.high] for name, s in mean.items()},
        "seeds": [run.facts.seed for run in runs],
    }
    if len(runs) > 1:
        each = [scores_by_name([t], asked.tasks, asked.groups) for t in tables]
        values = {name: [scores[name].value for scores in each] for name in mean}
        row["spread"] = spread({**values, "ms_per_sample": times})
    return row


def _costs(flops: Mapping[str, int | float]) -> dict[str, Any]:
    """Returns the FLOPs of a prompt, and what they save against the dense network."""
    flops = dict(flops)
    dense, prefill = flops.pop("dense_llm_prefill"), flops["llm_prefill"]
    before = flops["tower"] + flops["projector"]
    own = flops.get(CROP_SELECTION, 0)
    # Older predictions do not say it: most of those have the dense network's projector.
    dense_end_to_end = flops.pop(DENSE_END_TO_END, before + dense)
    return {
        "flops": flops,
        "llm_saving": dense / prefill,
        "end_to_end_saving": dense_end_to_end / (before + own + prefill),
    }
