"""Look once more when unsure: a cheap budget answers, a larger one where it is needed.

    cascade:sa0,sa3:1,3,5@0.8
            first  second   threshold

The first look is answered to its end. If its confidence (`inference.confidence`) lies
below the threshold, the network looks again: it answers in the second budget, going on
from the trunk, the layers that all budgets share. The tower and the trunk run once. So
a policy reads the question, a cascade the answer: it can know the page, not the task
alone. Cascades of classifiers are old (Viola & Jones 2001); of language models see
FrugalGPT (Chen et al. 2023).
"""

import dataclasses
import math
from typing import Any

from visor_jax.budget import Budget, BudgetSet
from visor_jax.budget_names import split_names
from visor_jax.layer_plan import LayerPlan
from visor_jax.runtime.arguments import confidence_threshold, shown

# As a budget: that of the calibration stored beside the checkpoint.
CASCADE = "cascade"
_FORM = "'cascade:FIRST,SECOND@THRESHOLD', as in 'cascade:sa0,all@0.8'"


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Two budgets, and how sure the first one's answer must be to stand.

    threshold: in (0, 1]; an answer whose confidence lies below it is not kept. 1 looks
    again wherever the network is not certain.

    Raises ValueError for anything else, one budget twice, or a dearer one first.
    """

    first: Budget
    second: Budget
    threshold: float

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            budget = getattr(self, name)
            if not isinstance(budget, Budget):
                problem = f"{name}={shown(budget)} is no Budget: name it as {_FORM}."
                raise ValueError(f"A cascade's {problem}")
        object.__setattr__(self, "threshold", confidence_threshold(self.threshold))
        if self.first == self.second:
            raise ValueError(
                f"A cascade looks again in another budget than {self.first.name}: give "
                "it a larger second one."
            )
        if self.first.size > self.second.size:
            raise ValueError(
                f"A cascade begins with the cheaper budget, and {self.first.name} has "
                f"more layers on than {self.second.name}: turn them round."
            )

    @property
    def name(self) -> str:
        """What `of_name` reads; the threshold to its last digit."""
        of_budgets = f"{self.first.name},{self.second.name}"
        return f"{CASCADE}:{of_budgets}@{self.threshold!r}"

    @property
    def budgets(self) -> tuple[Budget, Budget]:
        return self.first, self.second

    def looks_again(self, confidence: float) -> bool:
        """Returns whether a first answer of this confidence is not enough."""
        return confidence < self.threshold

    @classmethod
    def of_name(cls, name: str, plan: LayerPlan) -> "Cascade":
        """Returns the cascade with this name; opens no files.

        Raises:
          ValueError: for no such name, or budgets that the plan does not have.
        """
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is no cascade: write {_FORM}.")
        kind, _, rest = name.partition(":")
        listed, has_threshold, threshold = rest.rpartition("@")
        names = split_names(listed)
        if kind != CASCADE or not has_threshold or len(names) != 2:
            raise ValueError(f"{name!r:.80} is no cascade: write {_FORM}.")
        try:
            number = float(threshold)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            problem = f"the threshold {threshold!r:.20} of {name!r:.80} is no number"
            raise ValueError(f"{problem}: write {_FORM}.") from None
        return cls(*(Budget.parse(each, plan) for each in names), number)

    def check(self, budgets: BudgetSet) -> None:
        """Raises ValueError unless the network was trained for both budgets."""
        check_ladder(budgets)
        for budget in self.budgets:
            budgets.find(budget)

    def __str__(self) -> str:
        return self.name


def is_cascade(budget: Any) -> bool:
    """Returns whether a budget, or the name of one, is a cascade."""
    if isinstance(budget, str):
        return budget == CASCADE or budget.startswith(f"{CASCADE}:")
    return isinstance(budget, Cascade)


def check_ladder(budgets: BudgetSet) -> None:
    """Raises ValueError for a network that was trained for a single budget."""
    if len(budgets) < 2:
        raise ValueError(
            f"A cascade needs two budgets, and this network was trained for "
            f"{budgets.names[0]} alone: leave 'cascade' out, or train one for several "
            "(configs/universal.py)."
        )
