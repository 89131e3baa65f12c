"""Which budgets of a trained network are worth having.

The paper's second step: switch SELF layers of a trained network on and off without
training it again, and keep what pays. A budget is viable if no cheaper one scores as
well; the two extremes always are (VISOR, arXiv 2603.23495; the criterion is ours).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.budget import Budget, BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.runtime import atomic_write

# Subsets of one size that the guided search goes on from.
BEAM = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredBudget:
    """What a budget costs and brings.

    cost: FLOPs. score: the number that is maximised. details: whatever else was
    measured, for the record.
    """

    budget: Budget
    cost: float
    score: float
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The budgets that were evaluated, and which of them are viable.

    possible: how many subsets of the SELF layers there are.
    """

    plan: LayerPlan
    scored: tuple[ScoredBudget, ...]
    possible: int
    margin: float

    @property
    def viable(self) -> tuple[ScoredBudget, ...]:
        return pareto(self.scored, self.plan, self.margin)


def sweep(
    plan: LayerPlan,
    evaluate: Callable[[Sequence[Budget]], Sequence[ScoredBudget]],
    *,
    limit: int = 256,
    margin: float = 0.0,
) -> Sweep:
    """Returns the scores of all subsets, or of `limit` that a search finds promising.

    The search starts from nothing on and switches on one more layer at a time, each
    size going on from the `BEAM` best of the size before; the full budget is always
    evaluated.

    Args:
      evaluate: scores budgets; called with several at a time.
      limit: at most so many evaluations.
      margin: by how much the score must rise above that of every cheaper budget.

    Raises:
      ValueError: for a plan without SELF layers, or a limit that does not allow for
        both extremes.
    """
    check_search(plan, limit)
    possible = 2 ** len(plan.self_layers)
    if possible <= limit:
        found = list(evaluate(list(BudgetSet.parse(["every"], plan))))
    else:
        found = _search(plan, evaluate, limit)
    return Sweep(plan=plan, scored=tuple(found), possible=possible, margin=margin)


def check_search(plan: LayerPlan, limit: int) -> None:
    """Raises ValueError if there is nothing to choose, or not even the extremes fit."""
    if not plan.self_layers:
        raise ValueError("The plan has no SELF layers: there is nothing to choose.")
    if limit < 2:
        raise ValueError(f"{limit=} must be at least 2: nothing on, and all on.")


def _search(
    plan: LayerPlan,
    evaluate: Callable[[Sequence[Budget]], Sequence[ScoredBudget]],
    limit: int,
) -> list[ScoredBudget]:
    found = list(evaluate([Budget.none(), Budget.all(plan)]))
    beam = [Budget.none()]
    for _ in range(len(plan.self_layers) - 1):
        wider = {
            Budget(tuple(sorted({*budget.self_layers, layer})))
            for budget in beam
            for layer in set(plan.self_layers) - set(budget.self_layers)
        }
        room = limit - len(found)
        if room == 0:
            break
        scored = evaluate(sorted(wider)[:room])
        found += scored
        best = sorted(scored, key=lambda each: -each.score)
        beam = [each.budget for each in best[:BEAM]]
    return found


def pareto(
    scored: Iterable[ScoredBudget], plan: LayerPlan, margin: float = 0.0
) -> tuple[ScoredBudget, ...]:
    """Returns the budgets that score higher than every cheaper one kept, in order.

    The extremes, nothing on and all on, are always among them.

    Args:
      margin: by how much higher.
    """
    extremes = (Budget.none(), Budget.all(plan))
    best, kept = float("-inf"), []
    for each in sorted(scored, key=lambda each: (each.cost, -each.score)):
        rises = each.score > best + margin
        if rises or each.budget in extremes:
            kept.append(each)
            best = max(best, each.score)
    return tuple(kept)


def write_budget_file(file: Path, name: str, done: Sweep, **facts: Any) -> None:
    """Writes the viable budgets, which `@FILE` in a list of budgets reads.

    Args:
      facts: how they were found, for the record.
    """
    content = {
        "name": name,
        "plan": [kind.value for kind in done.plan.kinds],
        "budgets": [each.budget.name for each in done.viable],
        "evaluated": len(done.scored),
        "possible": done.possible,
        "margin": done.margin,
        **facts,
        "scores": [
            {
                "budget": each.budget.name,
                "cost": each.cost,
                "score": each.score,
                **each.details,
            }
            for each in sorted(done.scored, key=lambda each: each.cost)
        ],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.write_json(file, content)
