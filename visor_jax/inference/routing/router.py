"""Who says which budget a request gets: on the device what it sees, on the host why.

A router has two parts. `scores` is traced into the program that reads the prompts and
sees what stands there after the layers that all budgets share. `choose` runs on the
host, sees those scores and the requests, and may weigh costs or wishes without a new
program. A policy network is one router; a fixed budget is another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.prompts.request import Request
from visor_jax.inference.routing.cascade import CASCADE, Cascade
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.policy.choose import choose
from visor_jax.policy.features import PolicyFeatures, policy_features
from visor_jax.policy.network import Policy, policy_logits
from visor_jax.runtime.arguments import finite_number, shown

Params = Any


def features_of(trunk: DecoderState, last: Int[Array, "B R"]) -> PolicyFeatures:
    """Returns the features of R requests in each row, one after another: (X, 1, D).

    last: the index of each request's last token.
    """
    found = policy_features(trunk, last)
    return jax.tree.map(lambda x: x.reshape(-1, 1, x.shape[-1]), found)


@runtime_checkable
class Router(Protocol):
    """Picks a budget for each request.

    budgets: what it picks from, in class order. params: arrays that `scores` gets; an
    argument of the program, so that they are not compiled into it.
    """

    budgets: Sequence[Budget]
    params: Params

    def scores(self, params: Params, features: PolicyFeatures) -> Array:
        """Returns (X, n) numbers for `choose`; traced. n = 0 if it needs none.

        features: of X requests, (X, 1, D).
        """
        ...

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns the index of each request's budget; one row of scores for each."""
        ...


def checked_router(router: Any) -> Router:
    """Returns the router. Raises ValueError for anything else."""
    if isinstance(router, Router):
        return router
    raise ValueError(
        f"router={shown(router)} is neither the name of a budget ('none', 'all', "
        "'sa1:3', 'auto', 'cascade'), a Budget, nor a Router."
    )


class HostRouter:
    """A router that looks at the requests alone."""

    params: Params = ()

    def __init__(
        self, budgets: Sequence[Budget], rule: Callable[[Request], int]
    ) -> None:
        """Takes what says which of the budgets a request gets."""
        self.budgets = tuple(budgets)
        self._rule = rule

    def scores(self, params: Params, features: PolicyFeatures) -> Array:
        """Returns (X, 0): nothing on the device is asked."""
        del params
        return jnp.zeros((features.routing.shape[0], 0))

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns what the rule says of each request."""
        del scores
        return [self._rule(request) for request in requests]


def fixed(budget: Budget) -> HostRouter:
    """Returns the router that gives every request this budget."""
    return HostRouter([budget], lambda request: 0)


class CascadeRouter(HostRouter):
    """A cascade: every request begins in its first budget.

    What becomes of it then the engine knows (`engine.scheduler`). name: what requests
    may call it.
    """

    def __init__(self, cascade: Cascade, name: str = CASCADE) -> None:
        """Takes the cascade."""
        super().__init__(cascade.budgets, lambda request: 0)
        self.cascade, self.name = cascade, name


class PolicyRouter:
    """A trained policy, with a wish about costs that needs no new program."""

    def __init__(self, policy: Policy, budgets: BudgetSet, cost: float = 0.0) -> None:
        """Takes the policy and the budgets that it was trained for.

        Args:
          cost: 0 takes the policy at its word, more is cheaper (`policy.choose`).

        Raises:
          ValueError: for a cost that is not finite.
        """
        cost = finite_number(cost, "cost")
        self.budgets = budgets.budgets
        self.params = policy.params
        self._policy, self._cost = policy, cost

    def scores(self, params: Params, features: PolicyFeatures) -> Array:
        """Returns the policy's logits, (X, budgets)."""
        return policy_logits(self._policy.config, params, features)[:, 0]

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns the classes that are worth their cost, as each request wishes."""
        wishes = [each.options.cost for each in requests]
        wishes = [self._cost if cost is None else cost for cost in wishes]
        return choose(scores, self._policy.costs, wishes).tolist()


def known_cascades(
    router: Router, asked: Mapping[str, Cascade] | None
) -> dict[str, Cascade]:
    """Returns the cascades that requests may ask for, the router's among them.

    Raises:
      ValueError: as `checked_router`.
    """
    known = dict(asked or {})
    if isinstance(checked_router(router), CascadeRouter):
        known.setdefault(router.name, router.cascade)
    return known
