"""Evaluates several networks on the same pages, each of them once.

A policy's checkpoint holds the network that it chooses for. Where that network is
there in its own right, or has another policy, answers and times are shared.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.checkpoints import Network
from visor_jax.evals.harness import BudgetResult, Progress, evaluate_budgets
from visor_jax.evals.pages.benchmark import EvaluationSet
from visor_jax.evals.pages.policy_choices import page_logits, policy_choices
from visor_jax.evals.report.policy_rows import PolicyChoices
from visor_jax.evals.report.rows import EvaluatedRun
from visor_jax.models.vlm import VLM

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What is to be done for one set of parameters: all budgets that are asked for."""

    model: VLM
    params: Params
    budgets: BudgetSet


def evaluate_networks(
    networks: Sequence[Network],
    evaluation_set: EvaluationSet,
    *,
    costs: Sequence[float],
    progress: Progress | None = None,
) -> list[EvaluatedRun]:
    """Returns the answers, times and choices of all networks, in their order.

    Args:
      costs: preferences at which policies are tried (`policy.choose`).
      progress: called with (forward passes done, all).
    """
    work = _distinct(networks)
    total = sum(len(w.budgets) for w in work.values()) * evaluation_set.num_batches
    results: dict[tuple[str, str], BudgetResult] = {}
    programs: dict[tuple[str, str], timing.Program] = {}
    done = 0

    def shown(passes: int, _: int) -> None:
        if progress is not None:
            progress(done + passes, total)

    for key, each in work.items():
        asked = each.model, each.params, each.budgets, evaluation_set
        for result in evaluate_budgets(*asked, progress=shown):
            results[key, result.budget.name] = result
        for name, program in timing.budget_programs(*asked).items():
            programs[key, name] = program
        done += len(each.budgets) * evaluation_set.num_batches
    seconds = timing.time_programs(programs)
    return [
        _evaluated(network, results, seconds, evaluation_set, costs)
        for network in networks
    ]


def num_passes(networks: Sequence[Network]) -> int:
    """Returns how often `evaluate_networks` runs every page through a network."""
    return sum(len(each.budgets) for each in _distinct(networks).values())


def _distinct(networks: Sequence[Network]) -> dict[str, _Work]:
    """Returns the work for each set of parameters."""
    budgets: dict[str, dict[Budget, None]] = {}
    first: dict[str, Network] = {}
    for network in networks:
        key = network.member.network
        first.setdefault(key, network)
        budgets.setdefault(key, {}).update(dict.fromkeys(network.budgets))
    return {
        key: _Work(
            model=network.model,
            params=network.params,
            budgets=BudgetSet(network.model.config.plan, tuple(budgets[key])),
        )
        for key, network in first.items()
    }


def _evaluated(
    network: Network,
    results: Mapping[tuple[str, str], BudgetResult],
    seconds: Mapping[tuple[str, str], float],
    evaluation_set: EvaluationSet,
    costs: Sequence[float],
) -> EvaluatedRun:
    member, names = network.member, network.budgets.names
    mine = tuple(results[member.network, name] for name in names)
    return EvaluatedRun(
        label=member.label,
        facts=network.facts,
        network=member.network,
        config=network.model.config,
        results=mine,
        ms_per_sample={
            name: 1e3 * seconds[member.network, name] / timing.BATCH for name in names
        },
        policy=_choices(network, mine, evaluation_set, costs),
    )


def _choices(
    network: Network,
    results: Sequence[BudgetResult],
    evaluation_set: EvaluationSet,
    costs: Sequence[float],
) -> PolicyChoices | None:
    """Returns what the checkpoint's policy chooses; None if it has none."""
    policy = network.policy
    if policy is None:
        return None
    logits = page_logits(network.model, network.params, policy, evaluation_set)
    return policy_choices(network.member.shown_as, logits, policy, results, costs)
