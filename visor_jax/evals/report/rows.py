"""The rows of a report: one per model and budget, several seeds averaged.

A row says what its model scored, what a forward pass costs and how long it took. Rows
of one model and budget from several training seeds become one row of means: "spread"
says how the seeds differ, "intervals" how sure the mean is. Rows of one network have
intervals over held-out pages, rows of several over pages and seeds (`evals.scoring`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visor_jax.evals.harness import BudgetResult
from visor_jax.evals.pages.benchmark import GROUPS, EvaluationSet
from visor_jax.evals.report.policy_rows import PolicyChoices, PolicyMember, policy_rows
from visor_jax.evals.statistics import Score, group_score, spread, task_score
from visor_jax.flops.account import account, savings
from visor_jax.models.config import VLMConfig

Row = dict[str, Any]


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
class PromptLengths:
    """The lengths that FLOPs are counted for, those of the timed prefill."""

    text_tokens: int
    image_tokens: int
    crops: int

    @classmethod
    def of(cls, evaluation_set: EvaluationSet) -> "PromptLengths":
        """Returns the lengths of the set's prompts."""
        batch = evaluation_set.prompts(1)
        return cls(
            text_tokens=batch.tokens.shape[1],
            image_tokens=batch.image_positions.shape[1],
            crops=batch.pixels.shape[1],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """One trained network with its answers and times.

    label: "universal", "dense" or "dedicated:<budget>", also of a policy's network.
    network: stands for the parameters; the same for a network and for its policies.
    ms_per_sample: {budget name: milliseconds per page}, measured.
    policy: what the policy of a checkpoint chose, None if it has none; `facts` are then
    those of the policy.
    """

    label: str
    facts: RunFacts
    network: str
    config: VLMConfig
    results: tuple[BudgetResult, ...]
    ms_per_sample: Mapping[str, float]
    policy: PolicyChoices | None = None


Member = tuple[EvaluatedRun, BudgetResult]


def make_rows(runs: Sequence[EvaluatedRun], lengths: PromptLengths) -> list[Row]:
    """Returns one row per model and budget, in the order in which they first appear.

    Which runs may share a row, `evals.members` checks.
    """
    members: dict[tuple[str, str], dict[str, Member]] = {}
    # The network of a policy is one that was trained before: it counts once, with the
    # facts of its own training where they are known.
    for run in sorted(runs, key=lambda run: run.policy is not None):
        for result in run.results:
            of_row = members.setdefault((run.label, result.budget.name), {})
            of_row.setdefault(run.network, (run, result))
    order = list(dict.fromkeys(run.label for run in runs))
    keys = sorted(members, key=lambda key: order.index(key[0]))
    fixed = [_row(list(members[key].values()), lengths) for key in keys]
    return [*fixed, *_policy_rows(runs, lengths)]


def _policy_rows(runs: Sequence[EvaluatedRun], lengths: PromptLengths) -> list[Row]:
    members: dict[str, list[PolicyMember]] = {}
    for run in runs:
        if run.policy is not None:
            member = PolicyMember(
                chosen=run.policy,
                fixed=[_row([(run, result)], lengths) for result in run.results],
                correct=[result.correct for result in run.results],
                seed=run.facts.seed,
            )
            members.setdefault(run.policy.label, []).append(member)
    if not members:
        return []
    names = runs[0].results[0].task_names
    return [
        row for each in members.values() for row in policy_rows(each, _scores, names)
    ]


def _row(members: Sequence[Member], lengths: PromptLengths) -> Row:
    (run, result), budget = members[0], members[0][1].budget
    tables = [each.correct for _, each in members]
    mean = _scores(tables, result.task_names)
    asked = np.sum(~np.isnan(tables[0]), axis=0).tolist()
    times = [member.ms_per_sample[budget.name] for member, _ in members]
    row = {
        "model": run.label,
        "budget": budget.name,
        "self_layers_on": result.self_layers_on,
        "accuracy": {g: mean[g].value for g in GROUPS},
        "tasks": {t: mean[t].value for t in result.task_names},
        "n": dict(zip(result.task_names, asked, strict=True)),
        **_costs(run.config, result, lengths),
        "ms_per_sample": float(np.mean(times)),
        "ms_is": "measured",
        "intervals": {name: [s.low, s.high] for name, s in mean.items()},
        "seeds": [member.facts.seed for member, _ in members],
    }
    if len(members) > 1:
        each = [_scores([table], result.task_names) for table in tables]
        values = {name: [scores[name].value for scores in each] for name in mean}
        row["spread"] = spread({**values, "ms_per_sample": times})
    return row


def _scores(
    tables: Sequence[np.ndarray], task_names: Sequence[str]
) -> dict[str, Score]:
    """Returns the score of every group and of every task."""
    scores = {}
    for group, names in GROUPS.items():
        columns = [task_names.index(name) for name in names]
        scores[group] = group_score(*(table[:, columns] for table in tables))
    for column, name in enumerate(task_names):
        scores[name] = task_score(*(table[:, column] for table in tables))
    return scores


def _costs(
    config: VLMConfig, result: BudgetResult, lengths: PromptLengths
) -> dict[str, Any]:
    cost = account(
        config, result.budget, **dataclasses.asdict(lengths), logit_positions=1
    )
    saved = savings(cost)
    return {
        "flops": {
            "tower": cost.tower.total,
            "projector": cost.projector,
            "llm_prefill": cost.llm_prefill,
            # The first token after the prompt.
            "decode_per_token": cost.decode_per_token(lengths.text_tokens + 1),
        },
        "llm_saving": saved.llm_saving,
        "end_to_end_saving": saved.end_to_end_saving,
    }
