"""Which budget a training step uses: drawn from the step's own key.

The draw is a pure function of (seed, step), so every host draws the same budget without
talking to the others, and a resumed run repeats it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from visor_jax.budget import Budget, BudgetSet

# The name that stands for "any budget of the set, all equally likely".
ANY = "any"


@dataclasses.dataclass(frozen=True)
class SchedulePhase:
    """Until this fraction of the run, draw budgets with these relative weights."""

    until: float
    weights: Mapping[str, float]


class BudgetSchedule:
    """How likely each budget is at each step (static; the draw itself is traced)."""

    def __init__(
        self, budgets: BudgetSet, phases: tuple[SchedulePhase, ...], num_steps: int
    ) -> None:
        """Checks the phases against the set.

        Raises:
          ValueError: if the ends do not ascend to 1, a weight is negative, all are
            zero, or a name is not a budget of the set.
        """
        ends = [phase.until for phase in phases]
        if not ends or ends[-1] != 1 or ends != sorted(set(ends)) or ends[0] <= 0:
            raise ValueError(
                f"Budget phases must end at ascending fractions, the last at 1: {ends}."
            )
        self.budgets, self.phases = budgets, phases
        self._first_step_after = np.round(np.array(ends) * num_steps).astype(np.int32)
        rows = [_probabilities(budgets, phase.weights) for phase in phases]
        self._log_probabilities = np.log(np.maximum(np.array(rows), 1e-30))
        self._gate_table = budgets.gate_table()

    def draw(self, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the index into the budget set for this step."""
        phase = jnp.sum(step >= jnp.asarray(self._first_step_after[:-1]))
        logits = jnp.asarray(self._log_probabilities, jnp.float32)[phase]
        return jax.random.categorical(jax.random.fold_in(key, step), logits)

    def gates(self, index: Int[Array, ""]) -> Array:
        """Returns the traced gates (S,) of the budget with this index.

        See `BudgetSet.gate_table`.
        """
        return jnp.asarray(self._gate_table)[index]


def _probabilities(budgets: BudgetSet, weights: Mapping[str, float]) -> np.ndarray:
    row = np.zeros(len(budgets))
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"The weight of budget {name!r} is negative: {weight}.")
        if name == ANY:
            row += weight / len(budgets)
        else:
            row[budgets.index(Budget.parse(name, budgets.plan))] += weight
    if row.sum() <= 0:
        raise ValueError(f"At least one budget needs a positive weight: {weights}.")
    return row / row.sum()
