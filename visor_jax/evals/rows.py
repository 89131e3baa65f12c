"""The rows of a report: one per model and budget, several seeds averaged.

A row says what its model scored, what a forward pass costs and how long it took. Rows
of one model and budget from several training seeds become one row of means; "spread"
says how the seeds differ, "intervals" how sure the mean is given the held-out pages.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visor_jax.evals.evaluation_set import GROUPS, EvaluationSet
from visor_jax.evals.harness import BudgetResult
from visor_jax.evals.policy_rows import PolicyChoices, mean_of_seeds, policy_rows
from visor_jax.evals.scoring import Score, group_score, task_score
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

    label: "universal", "dense" or "dedicated:<budget>".
    ms_per_sample: {budget name: milliseconds per page}.
    policy: what the policy of a checkpoint chose, None if it has none.
    """

    label: str
    facts: RunFacts
    config: VLMConfig
    results: tuple[BudgetResult, ...]
    ms_per_sample: Mapping[str, float]
    policy: PolicyChoices | None = None


def make_rows(runs: Sequence[EvaluatedRun], lengths: PromptLengths) -> list[Row]:
    """Returns one row per model and budget, in the order in which they first appear.

    Raises:
      ValueError: if runs of one label are networks of different configurations.
    """
    members: dict[tuple[str, str], list[tuple[EvaluatedRun, BudgetResult]]] = {}
    configs: dict[str, VLMConfig] = {}
    # The network of a policy is one that was trained before: it counts once.
    plain = [run for run in runs if run.policy is None]
    named = {run.label for run in plain}
    for run in [*plain, *(r for r in runs if r.policy and r.label not in named)]:
        if configs.setdefault(run.label, run.config) != run.config:
            raise ValueError(
                f"Two checkpoints are labelled {run.label!r} but have different model "
                "configurations: report them separately."
            )
        for result in run.results:
            members.setdefault((run.label, result.budget.name), []).append(
                (run, result)
            )
    order = list(dict.fromkeys(run.label for run in runs))
    keys = sorted(members, key=lambda key: order.index(key[0]))
    fixed = [_row(members[key], lengths) for key in keys]
    return [*fixed, *_policy_rows(runs, lengths)]


def _policy_rows(runs: Sequence[EvaluatedRun], lengths: PromptLengths) -> list[Row]:
    members: dict[tuple[str, str], list[Row]] = {}
    for run in runs:
        if run.policy is None:
            continue
        rows = policy_rows(
            run.policy,
            [_row([(run, result)], lengths) for result in run.results],
            [result.correct for result in run.results],
            _scores,
            run.results[0].task_names,
        )
        for row in rows:
            members.setdefault((row["model"], row["budget"]), []).append(row)
    return [mean_of_seeds(rows) for rows in members.values()]


def _row(
    members: list[tuple[EvaluatedRun, BudgetResult]], lengths: PromptLengths
) -> Row:
    (run, result), budget = members[0], members[0][1].budget
    tables = [each.correct for _, each in members]
    mean = _scores(np.mean(tables, axis=0), result.task_names)
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
        "intervals": {name: [s.low, s.high] for name, s in mean.items()},
        "seeds": [member.facts.seed for member, _ in members],
    }
    if len(members) > 1:
        each = [_scores(table, result.task_names) for table in tables]
        row["spread"] = _spread(each, times)
    return row


def _scores(correct: np.ndarray, task_names: Sequence[str]) -> dict[str, Score]:
    """Returns the score of every group and of every task."""
    scores = {}
    for group, names in GROUPS.items():
        columns = [task_names.index(name) for name in names]
        scores[group] = group_score(correct[:, columns])
    for column, name in enumerate(task_names):
        scores[name] = task_score(correct[:, column])
    return scores


def _spread(each: list[dict[str, Score]], times: list[float]) -> dict[str, Any]:
    """Returns {name: {"std", "values"}} over seeds; std is that of a sample."""
    values = {name: [scores[name].value for scores in each] for name in each[0]}
    values["ms_per_sample"] = times
    return {
        name: {"std": float(np.std(v, ddof=1)), "values": v}
        for name, v in values.items()
    }


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
