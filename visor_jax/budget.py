"""How far SELF layers are on: one value that every part of the project understands.

A `Budget` is frozen, hashable and has a name: `sa0`, `sa2:8,16`, or `sa1:2+rd2:8,16`
where text reads the image in two more layers, which leave it as it is. Inside a jitted
program it appears only as `gates`, one per SELF layer of the plan. A `BudgetSet` is
ordered: the index of a budget is its class in the sampler, policy and report.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from visor_jax.budget_file import PREFIX, is_whole_file, name_within, names_in
from visor_jax.budget_names import (
    is_name,
    is_number,
    layers_of,
    name_of,
    split_names,
)
from visor_jax.layer_plan import READ, LayerPlan, StaticGate

# Of a traced gate with three positions, in the order of `gating.gated`'s branches.
ON_LEVEL = 2
_LEVELS = {False: 0, READ: 1, True: ON_LEVEL}


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """The SELF layers that run, in ascending order.

    self_layers: those that are on. read_layers: those in which text reads the image
    and the image is not refined.
    """

    self_layers: tuple[int, ...] = ()
    read_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("self_layers", "read_layers"):
            layers = getattr(self, name)
            if not isinstance(layers, tuple) or not all(map(_is_index, layers)):
                problem = f"{name}={layers!r:.80} are no layers: write Budget((8, 16))."
                raise ValueError(problem)
            if list(layers) != sorted(set(layers)):
                problem = f"Budget layers must ascend without repeats, got {layers}."
                raise ValueError(problem)
        both = sorted(set(self.self_layers) & set(self.read_layers))
        if both:
            raise ValueError(f"Budget layers {both} are on and read: choose one.")

    @classmethod
    def none(cls) -> "Budget":
        """Returns the cheapest budget: no SELF layer on."""
        return cls(())

    @classmethod
    def all(cls, plan: LayerPlan) -> "Budget":
        """Returns the largest budget of the plan: every SELF layer on."""
        return cls(plan.self_layers)

    @classmethod
    def reading(cls, plan: LayerPlan) -> "Budget":
        """Returns the budget in which every SELF layer reads."""
        return cls((), plan.self_layers)

    @classmethod
    def of_name(cls, name: str) -> "Budget":
        """Returns the budget with this very name. Raises ValueError for no name."""
        return cls(*layers_of(name))

    @classmethod
    def parse(cls, name: str, plan: LayerPlan) -> "Budget":
        """Returns the budget called `name` ("none", "read", "all", "sa2:8,16", "2").

        A number n is a budget of n SELF layers, evenly spread over those of the plan.

        Raises:
          ValueError: if the name does not parse or names a layer that is not SELF.
        """
        known = {"none": cls(), "all": cls.all(plan), "read": cls.reading(plan)}
        if name in known:
            return known[name]
        if is_number(name):
            return cls.spread(int(name), plan)
        if not is_name(name):
            example = cls(plan.self_layers[:2]).name
            raise ValueError(
                f"Unknown budget {name!r}: write 'none', 'all', 'read' or e.g. "
                f"'{example}' (count, then the SELF layers), or how many are on."
            )
        budget = cls.of_name(name)
        budget.check(plan)
        return budget

    @classmethod
    def spread(cls, count: int, plan: LayerPlan) -> "Budget":
        """Returns the budget of `count` SELF layers, evenly spread over the plan's.

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
        return cls(tuple(layers[i] for i in middles))

    @property
    def name(self) -> str:
        return name_of(self.self_layers, self.read_layers)

    @property
    def size(self) -> tuple[int, int]:
        """How many layers are on, and how many read."""
        return len(self.self_layers), len(self.read_layers)

    def check(self, plan: LayerPlan) -> None:
        """Raises ValueError unless every layer of the budget is a SELF layer."""
        wrong = sorted({*self.self_layers, *self.read_layers} - {*plan.self_layers})
        if wrong:
            raise ValueError(
                f"Budget {self.name!r} switches on layers {wrong}, but the SELF layers "
                f"of this model are {list(plan.self_layers)}."
            )

    def gates(self, plan: LayerPlan) -> tuple[StaticGate, ...]:
        """Returns one gate per SELF layer of the plan: False, READ or True."""
        self.check(plan)
        return tuple(
            READ if i in self.read_layers else i in self.self_layers
            for i in plan.self_layers
        )

    def levels(self, plan: LayerPlan) -> np.ndarray:
        """Returns the gates as numbers, int32 (S,): 0 (off), 1 (READ) or ON_LEVEL."""
        return np.array([_LEVELS[gate] for gate in self.gates(plan)], np.int32)

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
    def parse(cls, names: str | Iterable[str] | None, plan: LayerPlan) -> "BudgetSet":
        """Returns the set with these names, in their order.

        Beside the names that `Budget.parse` knows: "every", for all subsets, and those
        of `budget_file`. What a file holds and is named beside it is there once.

        Args:
          names: one by one, or in one string, separated by commas
            ("none,sa2:1,5,@file.json,3"); None for 0, 1, 2, ... SELF layers on.

        Raises:
          ValueError: for a name that does not parse, a file that cannot be read, a
            budget that does not fit the plan or is there twice.
        """
        if names is None:
            names = map(str, range(len(plan.self_layers) + 1))
        if isinstance(names, str):
            names = split_names(names)
        parts = [(is_whole_file(name), _named(name, plan)) for name in names]
        taken = {b for whole, found in parts if not whole for b in found}
        budgets: list[Budget] = []
        for whole, found in parts:
            budgets += [b for b in found if not (whole and b in taken)]
            taken.update(found)
        return cls(plan, tuple(budgets))

    def index(self, budget: Budget) -> int:
        """Returns the budget's class. Raises ValueError if it is not in the set."""
        if budget not in self.budgets:
            known = list(self.names)
            raise ValueError(f"Budget {budget.name!r} is not in this set {known}.")
        return self.budgets.index(budget)

    def find(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name, the largest for None.

        "@FILE:0.4" may be any of the plan: who names a file knows what they ask for.

        Raises:
          ValueError: if it is not in the set, with those that are.
        """
        known = ", ".join(self.names)
        try:
            found = self.of_plan(budget)
        except ValueError as error:
            raise ValueError(f"{error} There are: {known}.") from error
        if found not in self.budgets and not _is_of_file(budget):
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
            of_file = _is_of_file(budget)
            name = name_within(budget, self.plan) if of_file else budget
            return Budget.parse(name, self.plan)
        if not isinstance(budget, Budget):
            raise ValueError(
                f"budget={budget!r:.80} is neither a name ('none', 'all', '2', "
                "'sa1:3') nor a Budget."
            )
        budget.check(self.plan)
        return budget

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.budgets)

    @property
    def largest(self) -> Budget:
        return max(self.budgets, key=lambda b: b.size)

    @property
    def smallest(self) -> Budget:
        return min(self.budgets, key=lambda b: b.size)

    @property
    def reads(self) -> bool:
        """Whether a budget of the set has a layer that reads."""
        return any(budget.read_layers for budget in self.budgets)

    def gate_table(self) -> np.ndarray:
        """Returns the gates of every budget, (num_budgets, S), as a program takes them.

        bool where no budget reads; else `Budget.levels`.
        """
        table = np.stack([budget.levels(self.plan) for budget in self.budgets])
        return table if self.reads else table == ON_LEVEL

    def __iter__(self) -> Iterator[Budget]:
        return iter(self.budgets)

    def __len__(self) -> int:
        return len(self.budgets)


def _is_index(layer: object) -> bool:
    return isinstance(layer, int | np.integer) and not isinstance(layer, bool)


def _is_of_file(budget: object) -> bool:
    return isinstance(budget, str) and budget.startswith(PREFIX)


def _subsets(plan: LayerPlan) -> list[Budget]:
    if len(plan.self_layers) > 8:
        raise ValueError(
            f"'every' would be {2 ** len(plan.self_layers)} budgets: "
            "list the names you want instead."
        )
    layers = plan.self_layers
    sizes = range(len(layers) + 1)
    return [Budget(c) for n in sizes for c in itertools.combinations(layers, n)]


def _named(name: str, plan: LayerPlan) -> list[Budget]:
    if name == "every":
        return _subsets(plan)
    if is_whole_file(name):
        found = names_in(Path(name.removeprefix(PREFIX)), plan)
    else:
        found = (name_within(name, plan) if _is_of_file(name) else name,)
    return [Budget.parse(each, plan) for each in found]
