"""Which SELF layers are on: one value that every part of the project understands.

A `Budget` is frozen, hashable and has a name (`sa0`, `sa2:8,16`). Inside a jitted
program it appears only as `gates`, one bool per SELF layer of the plan. A `BudgetSet`
is ordered: the index of a budget is its class in the sampler, policy and report.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np

from visor_jax.layer_plan import LayerPlan

_NAME = re.compile(r"sa(\d+)(?::(\d+(?:,\d+)*))?")


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """The SELF layers that run, in ascending order."""

    self_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.self_layers) != sorted(set(self.self_layers)):
            raise ValueError(
                f"Budget layers must ascend without repeats, got {self.self_layers}."
            )

    @classmethod
    def none(cls) -> "Budget":
        """Returns the cheapest budget: no SELF layer on."""
        return cls(())

    @classmethod
    def all(cls, plan: LayerPlan) -> "Budget":
        """Returns the largest budget of the plan: every SELF layer on."""
        return cls(plan.self_layers)

    @classmethod
    def parse(cls, name: str, plan: LayerPlan) -> "Budget":
        """Returns the budget called `name` ("none", "all", "sa0", "sa2:8,16").

        Raises:
          ValueError: if the name does not parse or names a layer that is not SELF.
        """
        if name == "none":
            return cls.none()
        if name == "all":
            return cls.all(plan)
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"Unknown budget {name!r}: write 'none', 'all' or e.g. "
                f"'{cls(plan.self_layers[:2]).name}' (count, then the SELF layers)."
            )
        layers = tuple(int(i) for i in match[2].split(",")) if match[2] else ()
        if len(layers) != int(match[1]):
            raise ValueError(
                f"Budget {name!r} says {match[1]} SELF layers but lists {len(layers)}."
            )
        budget = cls(layers)
        budget.check(plan)
        return budget

    @property
    def name(self) -> str:
        listed = ",".join(map(str, self.self_layers))
        return f"sa{len(self.self_layers)}" + (f":{listed}" if listed else "")

    def check(self, plan: LayerPlan) -> None:
        """Raises ValueError unless every layer of the budget is a SELF layer."""
        wrong = sorted(set(self.self_layers) - set(plan.self_layers))
        if wrong:
            raise ValueError(
                f"Budget {self.name!r} switches on layers {wrong}, but the SELF layers "
                f"of this model are {list(plan.self_layers)}."
            )

    def gates(self, plan: LayerPlan) -> tuple[bool, ...]:
        """Returns one Python bool per SELF layer of the plan (the static form)."""
        self.check(plan)
        return tuple(i in self.self_layers for i in plan.self_layers)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class BudgetSet:
    """An ordered, duplicate-free choice of budgets, validated against one plan."""

    plan: LayerPlan
    budgets: tuple[Budget, ...]

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ValueError("A BudgetSet needs at least one budget.")
        names = [b.name for b in self.budgets]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ValueError(f"Budgets {repeated} are listed more than once.")
        for budget in self.budgets:
            budget.check(self.plan)

    @classmethod
    def parse(cls, names: Iterable[str], plan: LayerPlan) -> "BudgetSet":
        """Returns the set with these names; the name "every" stands for all subsets."""
        budgets: list[Budget] = []
        for name in names:
            budgets += _subsets(plan) if name == "every" else [Budget.parse(name, plan)]
        return cls(plan, tuple(budgets))

    def index(self, budget: Budget) -> int:
        """Returns the budget's class. Raises ValueError if it is not in the set."""
        if budget not in self.budgets:
            raise ValueError(
                f"Budget {budget.name!r} is not in this set {list(self.names)}."
            )
        return self.budgets.index(budget)

    def find(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name, the largest for None.

        Raises:
          ValueError: if it is not in the set, with those that are.
        """
        known = ", ".join(self.names)
        try:
            found = self.of_plan(budget)
        except ValueError as error:
            raise ValueError(f"{error} There are: {known}.") from error
        if found not in self.budgets:
            raise ValueError(
                f"The network was not trained for budget {found.name!r}: choose one of "
                f"{known}."
            )
        return found

    def of_plan(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name, in the set or not, the largest for None.

        Raises:
          ValueError: if the plan has no such budget.
        """
        if budget is None:
            return self.largest
        if isinstance(budget, str):
            return Budget.parse(budget, self.plan)
        budget.check(self.plan)
        return budget

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.budgets)

    @property
    def largest(self) -> Budget:
        return max(self.budgets, key=lambda b: len(b.self_layers))

    @property
    def smallest(self) -> Budget:
        return min(self.budgets, key=lambda b: len(b.self_layers))

    def gate_table(self) -> np.ndarray:
        """Returns the gates of every budget, bool (num_budgets, S)."""
        rows = [b.gates(self.plan) for b in self.budgets]
        return np.asarray(rows, bool).reshape(len(rows), len(self.plan.self_layers))

    def __iter__(self) -> Iterator[Budget]:
        return iter(self.budgets)

    def __len__(self) -> int:
        return len(self.budgets)


def _subsets(plan: LayerPlan) -> list[Budget]:
    if len(plan.self_layers) > 8:
        raise ValueError(
            f"'every' would be {2 ** len(plan.self_layers)} budgets: "
            "list the names you want instead."
        )
    layers = plan.self_layers
    sizes = range(len(layers) + 1)
    return [Budget(c) for n in sizes for c in itertools.combinations(layers, n)]


def parse_budgets(names: str | None, plan: LayerPlan) -> list[Budget]:
    """Returns the budgets of a comma-separated list; None stands for 0, 1, 2, ...

    Raises:
      ValueError: for a name that does not parse or does not fit the plan.
    """
    if names is None:
        return [spread(count, plan) for count in range(len(plan.self_layers) + 1)]
    parts, budgets = names.split(","), []
    while parts:
        part = parts.pop(0)
        listed = re.fullmatch(r"sa(\d+):\d+", part)
        if listed:
            others = max(int(listed[1]) - 1, 0)
            part = ",".join([part, *parts[:others]])
            parts = parts[others:]
        number = re.fullmatch(r"[0-9]{1,9}", part)
        budgets.append(spread(int(part), plan) if number else Budget.parse(part, plan))
    return budgets


def spread(count: int, plan: LayerPlan) -> Budget:
    """Returns the budget of `count` SELF layers, evenly spread over those of the plan.

    Raises:
      ValueError: if the plan has fewer SELF layers.
    """
    layers = plan.self_layers
    if count > len(layers):
        raise ValueError(
            f"A budget of {count} SELF layers does not fit: this network has "
            f"{len(layers)}, {list(layers)}."
        )
    middles = ((2 * i + 1) * len(layers) // (2 * count) for i in range(count))
    return Budget(tuple(layers[i] for i in middles))
