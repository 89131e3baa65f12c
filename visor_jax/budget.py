"""Which SELF layers are on: one value that every part of the project understands.

A `Budget` is frozen, hashable and has a name (`sa0`, `sa2:8,16`). Inside a jitted
program it appears only as `gates`, one bool per SELF layer of the plan. A `BudgetSet`
is ordered: the index of a budget is its class in the sampler, policy and report.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from visor_jax.layer_plan import LayerKind, LayerPlan

_NAME = re.compile(r"sa(\d+)(?::(\d+(?:,\d+)*))?")
_NUMBER = re.compile(r"[0-9]{1,9}")
# In a list with commas: the count says how many of the numbers behind it belong here.
_FIRST_OF_SEVERAL = re.compile(r"sa([0-9]{1,9}):[0-9]+")


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """The SELF layers that run, in ascending order."""

    self_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        layers = self.self_layers
        if not isinstance(layers, tuple) or not all(_is_index(i) for i in layers):
            raise ValueError(
                f"self_layers={layers!r:.80} are no layers: write Budget((8, 16))."
            )
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
        """Returns the budget called `name` ("none", "all", "sa0", "sa2:8,16", "2").

        A number n is a budget of n SELF layers, evenly spread over those of the plan.

        Raises:
          ValueError: if the name does not parse or names a layer that is not SELF.
        """
        if name == "none":
            return cls.none()
        if name == "all":
            return cls.all(plan)
        if _NUMBER.fullmatch(name):
            return cls.spread(int(name), plan)
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"Unknown budget {name!r}: write 'none', 'all' or e.g. "
                f"'{cls(plan.self_layers[:2]).name}' (count, then the SELF layers), or "
                "how many SELF layers are on."
            )
        layers = tuple(int(i) for i in match[2].split(",")) if match[2] else ()
        if len(layers) != int(match[1]):
            raise ValueError(
                f"Budget {name!r} says {match[1]} SELF layers but lists {len(layers)}."
            )
        budget = cls(layers)
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
    def parse(cls, names: str | Iterable[str] | None, plan: LayerPlan) -> "BudgetSet":
        """Returns the set with these names, in their order.

        Beside the names that `Budget.parse` knows: "every", for all subsets, and
        "@FILE", for those that a sweep found.

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
            names = _split(names)
        return cls(plan, tuple(b for name in names for b in _named(name, plan)))

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


def _is_index(layer: object) -> bool:
    return isinstance(layer, int | np.integer) and not isinstance(layer, bool)


def _subsets(plan: LayerPlan) -> list[Budget]:
    if len(plan.self_layers) > 8:
        raise ValueError(
            f"'every' would be {2 ** len(plan.self_layers)} budgets: "
            "list the names you want instead."
        )
    layers = plan.self_layers
    sizes = range(len(layers) + 1)
    return [Budget(c) for n in sizes for c in itertools.combinations(layers, n)]


def _split(text: str) -> list[str]:
    """Returns the names of a list with commas; those of a name stay with it."""
    parts, names = text.split(","), []
    while parts:
        name = parts.pop(0)
        if listed := _FIRST_OF_SEVERAL.fullmatch(name):
            for _ in range(int(listed[1]) - 1):
                if not parts or not _NUMBER.fullmatch(parts[0]):
                    break
                name += f",{parts.pop(0)}"
        names.append(name)
    return names


def _named(name: str, plan: LayerPlan) -> list[Budget]:
    if name == "every":
        return _subsets(plan)
    if name.startswith("@"):
        return _in_file(Path(name[1:]), plan)
    return [Budget.parse(name, plan)]


def _in_file(file: Path, plan: LayerPlan) -> list[Budget]:
    """Returns the budgets of a file that `analysis.budget_sweep` wrote."""
    try:
        content = json.loads(file.read_text())
        names = tuple(content["budgets"])
        kinds = tuple(LayerKind(kind) for kind in content["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} holds no budgets ({error}): give a file that "
            "`python -m visor_jax.sweep` wrote."
        ) from error
    if kinds != plan.kinds:
        raise ValueError(
            f"The budgets in {file} are of another layer plan: SELF layers "
            f"{list(LayerPlan(kinds).self_layers)} there, {list(plan.self_layers)} "
            "in this network."
        )
    return [Budget.parse(name, plan) for name in names]
