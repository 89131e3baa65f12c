"""Which layers of a network need the whole image, which a look, and which nothing.

Budgets of a network that nobody trained for them: one layer after another is lowered,
from on to READ and from READ to off, always where it changes the answers least for the
FLOPs that it saves; after every round all that is left is measured again. The measure,
how far the next token's distribution moves, is that of ShortV (arXiv 2504.00502), which
freezes image tokens in the layers where it is smallest, chosen once.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from visor_jax.analysis.budget_sweep import ScoredBudget
from visor_jax.budget import Budget
from visor_jax.layer_plan import LayerPlan

# Returns how far the answers at each of these budgets are from those with all on.
Measure = Callable[[Sequence[Budget]], Sequence[float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowering:
    """What was measured, and the way down.

    scored: every budget that was measured; score is minus the divergence. path: those
    that were taken, from all on downwards.
    """

    scored: tuple[ScoredBudget, ...]
    path: tuple[Budget, ...]


def lower_layers(
    plan: LayerPlan,
    measure: Measure,
    cost: Callable[[Budget], float],
    *,
    limit: int,
) -> Lowering:
    """Returns the budgets on the way from everything on to nothing on.

    Args:
      measure: called with all candidates of a round, and with what was chosen.
      cost: FLOPs of a budget.
      limit: at most so many measurements. With fewer than it would take to lower one
        step at a time, several are taken a round.

    Raises:
      ValueError: as `check_lowering`.
    """
    check_lowering(plan, limit)
    state = Budget.all(plan)
    search = _Search(measure, cost)
    search.divergences([state])
    path, steps = [state], 2 * len(plan.self_layers)
    at_once = _steps_a_round(len(plan.self_layers), limit - 1)
    while steps:
        layers = [*state.self_layers, *state.read_layers]
        candidates = {layer: lowered(state, [layer]) for layer in layers}
        if search.count + len(candidates) + 1 > limit:
            break
        rates = search.rates(state, [*candidates.values()])
        by_rate = sorted(zip(rates, layers, strict=True))
        chosen = [layer for _, layer in by_rate[:at_once]]
        state = lowered(state, chosen)
        search.divergences([state])
        path.append(state)
        steps -= len(chosen)
    return Lowering(scored=tuple(search.scored()), path=tuple(path))


def check_lowering(plan: LayerPlan, limit: int) -> None:
    """Raises ValueError for a plan without SELF layers, or too few measurements."""
    if not plan.self_layers:
        raise ValueError("The plan has no SELF layers: there is nothing to lower.")
    least = len(plan.self_layers) + 2
    if limit < least:
        raise ValueError(
            f"{limit=} must be at least {least}: all on, every layer lowered once, and "
            "what is chosen of it."
        )


def lowered(budget: Budget, layers: Sequence[int]) -> Budget:
    """Returns the budget with each of these layers a step lower."""
    on, read = set(budget.self_layers), set(budget.read_layers)
    to_read, to_off = on & set(layers), read & set(layers)
    return Budget(tuple(sorted(on - to_read)), tuple(sorted((read - to_off) | to_read)))


def _steps_a_round(layers: int, limit: int) -> int:
    """Returns the fewest steps a round with which a way down fits into the limit."""
    for at_once in range(1, 2 * layers + 1):
        left, used = 2 * layers, 0
        while left > 0:
            # No more layers than steps that are left are above off.
            used += min(layers, left) + 1
            left -= at_once
        if used <= limit:
            return at_once
    return 2 * layers


class _Search:
    """Measures each budget once."""

    def __init__(self, measure: Measure, cost: Callable[[Budget], float]) -> None:
        self._measure, self._cost = measure, cost
        self._found: dict[Budget, float] = {}

    @property
    def count(self) -> int:
        return len(self._found)

    def divergences(self, budgets: Sequence[Budget]) -> list[float]:
        new = [each for each in dict.fromkeys(budgets) if each not in self._found]
        if new:
            self._found |= dict(zip(new, self._measure(new), strict=True))
        return [self._found[each] for each in budgets]

    def rates(self, state: Budget, candidates: Sequence[Budget]) -> list[float]:
        """Returns how far each moves the answers from the state's for what it saves.

        What saves nothing goes first where it changes nothing, else last.
        """
        before, *found = self.divergences([state, *candidates])
        rates = []
        for candidate, divergence in zip(candidates, found, strict=True):
            saved = self._cost(state) - self._cost(candidate)
            moved = divergence - before
            nothing_saved = math.inf if moved > 0 else -math.inf
            rates.append(moved / saved if saved > 0 else nothing_saved)
        return rates

    def scored(self) -> list[ScoredBudget]:
        return [
            ScoredBudget(
                budget=budget,
                cost=self._cost(budget),
                score=-divergence,
                details={"divergence": divergence},
            )
            for budget, divergence in self._found.items()
        ]
