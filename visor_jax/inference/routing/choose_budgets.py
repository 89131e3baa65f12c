"""The budget of each prompt: one that is named, what a policy chooses, or a cascade.

To choose, prompts are read up to the layer where budgets part; whoever answers them
goes on from there (`read`, `chosen`). `of_samples` is for those who want budgets alone.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.buckets import Buckets
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sample import Sample
from visor_jax.inference.generation.prefill import check_prompts
from visor_jax.inference.generation.shared_trunk import (
    SharedTrunk,
    read_trunk,
    read_trunk_alone,
)
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.cascade import CASCADE, Cascade, is_cascade
from visor_jax.inference.routing.cascade_file import CascadeFile, calibrated
from visor_jax.inference.routing.router import (
    CascadeRouter,
    PolicyRouter,
    Router,
    checked_router,
    fixed,
)
from visor_jax.models.vlm import VLM
from visor_jax.policy.choose import choose_budgets
from visor_jax.policy.network import Policy, prompt_logits
from visor_jax.runtime.arguments import finite_number

Params = Any
_BATCH = 8
# As a budget: what the policy chooses.
AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BudgetChoice:
    """How a network's prompts come by their budgets.

    budgets: those that it was trained for. policy: None if it has none. cascade_file:
    where the calibration of its cascade lies, if there is one; None for a network that
    is no run's.
    """

    model: VLM
    params: Params
    buckets: Buckets
    budgets: BudgetSet
    policy: Policy | None
    cascade_file: CascadeFile | None = None

    @classmethod
    def of(cls, network: Network) -> "BudgetChoice":
        """Returns how the prompts of a loaded network come by their budgets."""
        return cls(
            model=network.vlm,
            params=network.params,
            buckets=network.processor.buckets,
            budgets=network.budgets,
            policy=network.policy,
            cascade_file=network.cascade_file,
        )

    def router(
        self, budget: Router | str | Budget | Cascade | None = None, cost: float = 0.0
    ) -> Router:
        """Returns what gives an engine's prompts their budgets.

        Raises:
          ValueError: for a budget that the network was not trained for, "auto" without
            a policy, "cascade" without a calibration, or a cost without "auto".
        """
        cost = finite_number(cost, "cost")
        if is_cascade(budget):
            self._check_cost(cost)
            return CascadeRouter(self.cascade(budget), str(budget))
        if isinstance(budget, str) and budget == AUTO:
            return PolicyRouter(self._needed_policy(), self.budgets, cost)
        if budget is not None and not isinstance(budget, str | Budget):
            self._check_cost(cost)
            return checked_router(budget)
        return fixed(self._named(budget, cost))

    def of_samples(
        self,
        samples: Sequence[Sample],
        budget: str | Budget | None = None,
        cost: float = 0.0,
        options: Sequence[AnswerOptions] = (),
    ) -> list[Budget]:
        """Returns every sample's budget: the one that is named, or the policy's choice.

        Args:
          cost: how much costs count beyond what the policy was trained for.
          options: of each sample; a budget or cost there goes before the common one. ()
            where nobody says anything.

        Raises:
          ValueError: as `router`.
        """
        named = self.named(len(samples), budget, cost, options)
        for each in named:
            if isinstance(each, Cascade):
                raise ValueError(
                    f"{each.name} chooses a budget when it has answered in the first: "
                    "ask for answers, not for choices."
                )
        automatic = [
            sample for sample, name in zip(samples, named, strict=True) if name is None
        ]
        costs = self.costs_of(len(samples), cost, options)
        wishes = [cost for cost, name in zip(costs, named, strict=True) if name is None]
        chosen = iter(self._chosen(automatic, wishes))
        return [next(chosen) if name is None else name for name in named]

    def named(
        self,
        count: int,
        budget: str | Budget | None = None,
        cost: float = 0.0,
        options: Sequence[AnswerOptions] = (),
    ) -> list[Budget | Cascade | None]:
        """Returns the budgets of `count` prompts, None where the policy is to choose.

        Arguments and errors are those of `of_samples`.
        """
        cost = finite_number(cost, "cost")
        own = [each.budget for each in options] or [None] * count
        names = [budget if name is None else name for name in own]
        if any(map(_is_auto, (budget, *names))):
            self._needed_policy()
        else:
            self._check_cost(cost)
        for each, name in zip(options, names, strict=False):
            if not _is_auto(name):
                self._check_cost(each.cost or 0.0)
        return [None if _is_auto(name) else self._found(name) for name in names]

    def costs_of(
        self, count: int, cost: float, options: Sequence[AnswerOptions] = ()
    ) -> list[float]:
        """Returns what costs count for each sample. Arguments as of `of_samples`."""
        own = [each.cost for each in options] or [None] * count
        return [cost if each is None else each for each in own]

    def cascade(self, budget: str | Cascade = CASCADE) -> Cascade:
        """Returns the cascade of that name; "cascade" is the calibrated one.

        Raises:
          ValueError: for no cascade, budgets that the network was not trained for, or
            "cascade" without a calibration.
        """
        if isinstance(budget, str) and budget == CASCADE:
            return calibrated(self.cascade_file, self.budgets)
        if not isinstance(budget, Cascade):
            budget = Cascade.of_name(budget, self.budgets.plan)
        budget.check(self.budgets)
        return budget

    def asked(self, budgets: Iterable[str | Budget | Cascade]) -> dict[str, Any]:
        """Returns these as `Engine` takes them: budgets, and cascades by name."""
        found: dict[str, Any] = {"budgets": [], "cascades": {}}
        for each in budgets:
            if is_cascade(each):
                found["cascades"][str(each)] = self.cascade(each)
            else:
                found["budgets"].append(self.budgets.find(each))
        return found

    def trunk(self, batch: Batch) -> SharedTrunk:
        """Returns prompts after the trunk. Raises ValueError as `check_prompts`."""
        check_prompts(batch)
        return read_trunk_alone(self.params, batch, model=self.model)

    def read(self, batch: Batch) -> tuple[SharedTrunk, Float[np.ndarray, "B budgets"]]:
        """Returns prompts after the trunk and the policy's logits for each row.

        Raises:
          ValueError: without a policy.
        """
        policy = self._needed_policy()
        trunk, logits = read_trunk(
            self.params,
            policy.params,
            batch,
            model=self.model,
            config=policy.config,
        )
        return trunk, np.asarray(logits)

    def chosen(
        self,
        logits: Float[np.ndarray, "n budgets"],
        cost: float | Sequence[float] = 0.0,
    ) -> list[Budget]:
        """Returns what the policy chooses by its logits for each prompt.

        cost: one for all prompts, or one for each.
        """
        costs = self._needed_policy().costs
        return choose_budgets(logits, costs, self.budgets, cost)

    def _chosen(
        self, samples: Sequence[Sample], costs: Sequence[float]
    ) -> list[Budget]:
        """Returns what the policy chooses for each sample, at a cost of its own."""
        if not samples:
            return []
        policy = self._needed_policy()
        logits = np.zeros((len(samples), len(self.budgets)), np.float32)
        for group in self.buckets.batches(samples, _BATCH, whole=False):
            found = prompt_logits(
                self.params,
                policy.params,
                group.batch,
                model=self.model,
                config=policy.config,
            )
            logits[list(group.rows)] = np.asarray(found)[: len(group.rows), 0]
        return self.chosen(logits, costs)

    def _found(self, budget: str | Budget | Cascade | None) -> Budget | Cascade:
        return self.cascade(budget) if is_cascade(budget) else self.budgets.find(budget)

    def _named(self, budget: str | Budget | None, cost: float) -> Budget:
        self._check_cost(cost)
        return self.budgets.find(budget)

    def _check_cost(self, cost: float) -> None:
        if cost:
            raise ValueError(f"{cost=} is for budget={AUTO!r}: leave it out.")

    def _needed_policy(self) -> Policy:
        if self.policy is None:
            raise ValueError(
                f"budget={AUTO!r} needs a policy, which this checkpoint has not: train "
                "one with configs/policy.py, or name one of the budgets "
                f"{', '.join(self.budgets.names)}."
            )
        return self.policy


def _is_auto(budget: object) -> bool:
    return isinstance(budget, str) and budget == AUTO
