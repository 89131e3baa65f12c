"""Budgets on a benchmark: what each costs and scores, and which one would have done.

Scores are of the network's own answers (`evals.harness`), kinds by budgets, ordered by
FLOPs; beside them how often a budget is the cheapest that is right, and how often the
network's policy, if it has one, chooses it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from visor_jax.analysis.figures import drawing
from visor_jax.analysis.means import kinds_of, means_by_kind, scores_by_kind
from visor_jax.analysis.study import Study
from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.harness import predict
from visor_jax.evals.policy_choices import policy_logits
from visor_jax.evals.predictions import Predictions
from visor_jax.policy.choose import choose

NONE_RIGHT = "none right"
# Of the times: prompts at once, and runs.
_ROWS, _RUNS = 8, 7


def content(study: Study) -> dict[str, Any]:
    """Returns costs, scores, times, cheapest right budgets and the policy's choices."""
    network, benchmark = study.network, study.benchmark
    plan = network.config.plan
    asked = dict.fromkeys(
        [
            *study.budgets,
            *(network.budgets if not study.budgets else ()),
            Budget.all(plan),
        ]
    )
    found = predict(network, benchmark, BudgetSet(plan, tuple(asked)))
    cost = {b: found.mean_flops(b)["llm_prefill"] for b in found.budgets}
    found = found.at(sorted(found.budgets, key=lambda b: (cost[b], b.size)))
    examples = list(benchmark.examples())
    scores = found.main_scores.T
    full = scores[:, found.budgets.index(Budget.all(plan))]
    names = [budget.name for budget in found.budgets]
    kinds = kinds_of(examples, benchmark.groups)
    return {
        "budgets": names,
        "llm_prefill_flops": [cost[budget] for budget in found.budgets],
        "ms": _milliseconds(study, found),
        "score": scores_by_kind(scores, examples, benchmark.groups),
        "minus_full": means_by_kind(scores - full[:, None], examples, benchmark.groups),
        "cheapest_right": {
            kind: _shares(cheapest_right(scores[chosen]), [*names, NONE_RIGHT])
            for kind, chosen in kinds.items()
        },
        "auto": _auto(study, names, kinds),
    }


def cheapest_right(scores: Float[np.ndarray, "n budgets"]) -> Int[np.ndarray, "n"]:
    """Returns the first budget that is right for each question, as many if none is.

    Args:
      scores: the cheapest budget first; right is a score of 1.
    """
    right: Bool[np.ndarray, "n budgets"] = scores == 1
    return np.where(right.any(axis=1), right.argmax(axis=1), scores.shape[1])


def _shares(chosen: Int[np.ndarray, "n"], names: list[str]) -> dict[str, float]:
    counts = np.bincount(chosen, minlength=len(names))
    return dict(zip(names, (counts / max(len(chosen), 1)).tolist(), strict=True))


def _milliseconds(study: Study, found: Predictions) -> list[float]:
    batch = timing.prompts(study.network, study.benchmark, _ROWS)
    budgets = BudgetSet(study.network.config.plan, found.budgets)
    programs = timing.prefill_programs(study.network, budgets, batch)
    times = timing.milliseconds_per_row(programs, batch_size=_ROWS, runs=_RUNS)
    return [times[budget] for budget in found.budgets]


def _auto(
    study: Study, names: list[str], kinds: Mapping[str, Bool[np.ndarray, "n"]]
) -> dict[str, dict[str, float]] | None:
    """Returns how often the policy chooses a budget; None where there is no policy.

    Policies are tried on packed questions alone so far: None without those, too.
    """
    network = study.network
    if network.policy is None or study.benchmark.packed() is None:
        return None
    logits = policy_logits(network, study.benchmark)
    chosen = choose(logits, np.array(network.policy.costs), 0.0)
    classes = list(network.budgets.names)
    own = dict.fromkeys([*classes, *names])
    return {kind: _shares(chosen[mine], list(own)) for kind, mine in kinds.items()}


def draw(contents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns the heat maps, and accuracy against FLOPs and time, a column each."""
    return drawing.budget_maps("Budgets", contents)
