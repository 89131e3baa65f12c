"""Evaluates several networks on the same benchmark, each of them once.

A policy's checkpoint holds the network that it chooses for. Where that network is
there in its own right, or has another policy, answers and times are shared.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.checkpoints import EvaluatedCheckpoint
from visor_jax.evals.harness import Progress, predict
from visor_jax.evals.policy_choices import (
    policy_choices,
    policy_logits,
    questions_of_policies,
)
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report.cascade_rows import CascadeAnswers
from visor_jax.evals.report.policy_rows import PolicyChoices
from visor_jax.evals.report.rows import EvaluatedRun
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.cascade import Cascade


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What is to be done for one set of parameters: all budgets that are asked for."""

    network: Network
    budgets: BudgetSet


def evaluate_networks(
    checkpoints: Sequence[EvaluatedCheckpoint],
    benchmark: Benchmark,
    *,
    costs: Sequence[float],
    cascades: Sequence[Cascade | None] = (),
    progress: Progress | None = None,
) -> list[EvaluatedRun]:
    """Returns the answers, times and choices of all checkpoints, in their order.

    Args:
      costs: preferences at which policies are tried (`policy.choose`).
      cascades: of each checkpoint, () for none; both budgets are asked once more, since
        packed answers do not tell how sure the network is of them.
      progress: called with (answers so far, of how many), without those of cascades.

    Raises:
      ValueError: if there are policies, but no questions that they can be tried on, or
        a token reducer that goes by the question; before any network runs.
    """
    for each in checkpoints:
        if each.network.policy is not None:
            questions_of_policies(benchmark, each.network.reducer)
    work = _distinct(checkpoints)
    total = num_budgets(checkpoints) * len(benchmark)
    predictions: dict[str, Predictions] = {}
    programs: dict[tuple[str, Budget], timing.Program] = {}
    done = 0

    def shown(answers: int, _: int) -> None:
        if progress is not None:
            progress(done + answers, total)

    for key, each in work.items():
        predictions[key] = predict(
            each.network, benchmark, each.budgets, progress=shown
        )
        prompts = timing.prompts(each.network, benchmark)
        timed = timing.prefill_programs(each.network, each.budgets, prompts)
        programs |= {(key, budget): program for budget, program in timed.items()}
        done += len(each.budgets) * len(benchmark)
    times = timing.milliseconds_per_row(programs)
    evaluated = [
        _evaluated(checkpoint, predictions, times, benchmark, costs)
        for checkpoint in checkpoints
    ]
    asked = cascades or [None] * len(checkpoints)
    return [
        dataclasses.replace(run, cascade=_cascade(checkpoint, cascade, benchmark))
        for run, checkpoint, cascade in zip(evaluated, checkpoints, asked, strict=True)
    ]


def _cascade(
    checkpoint: EvaluatedCheckpoint, cascade: Cascade | None, benchmark: Benchmark
) -> CascadeAnswers | None:
    """Returns what a checkpoint's cascade answers; None if it has none."""
    if cascade is None:
        return None
    network = checkpoint.network
    budgets = BudgetSet(network.config.plan, cascade.budgets)
    found = predict(network, benchmark, budgets, scored=True)
    return CascadeAnswers(cascade=cascade, predictions=found)


def num_budgets(checkpoints: Sequence[EvaluatedCheckpoint]) -> int:
    """Returns how often `evaluate_networks` has every question answered."""
    return sum(len(each.budgets) for each in _distinct(checkpoints).values())


def _distinct(checkpoints: Sequence[EvaluatedCheckpoint]) -> dict[str, _Work]:
    """Returns the work for each set of parameters."""
    budgets: dict[str, dict[Budget, None]] = {}
    first: dict[str, Network] = {}
    for checkpoint in checkpoints:
        key = checkpoint.replicate.network
        first.setdefault(key, checkpoint.network)
        budgets.setdefault(key, {}).update(dict.fromkeys(checkpoint.budgets))
    return {
        key: _Work(
            network=network,
            budgets=BudgetSet(network.config.plan, tuple(budgets[key])),
        )
        for key, network in first.items()
    }


def _evaluated(
    checkpoint: EvaluatedCheckpoint,
    predictions: Mapping[str, Predictions],
    times: Mapping[tuple[str, Budget], float],
    benchmark: Benchmark,
    costs: Sequence[float],
) -> EvaluatedRun:
    replicate = checkpoint.replicate
    mine = predictions[replicate.network].at(checkpoint.budgets)
    return EvaluatedRun(
        label=replicate.label,
        facts=checkpoint.facts,
        network=replicate.network,
        predictions=mine,
        ms_per_sample={b: times[replicate.network, b] for b in checkpoint.budgets},
        policy=_choices(checkpoint, mine, benchmark, costs),
    )


def _choices(
    checkpoint: EvaluatedCheckpoint,
    predictions: Predictions,
    benchmark: Benchmark,
    costs: Sequence[float],
) -> PolicyChoices | None:
    """Returns what the checkpoint's policy chooses; None if it has none."""
    policy = checkpoint.network.policy
    if policy is None:
        return None
    logits = policy_logits(checkpoint.network, benchmark)
    label = checkpoint.replicate.shown_as
    return policy_choices(label, logits, policy, predictions, costs)
