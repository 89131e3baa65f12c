"""Times a mixed batch: does a saving per question become a saving of time?

    python -m visor_jax.timing.engine --checkpoint=runs/universal [--budgets=none,all]

Questions about pages go through the engine, each budget's turn by turn, and once all in
one budget at a time. What the mixed batch should take follows from each budget's own
time: the sum of its questions' shares. Images are encoded anew in every run. With a
policy's checkpoint its own choices are timed as well, and the same choices once more by
an engine that is told them and has no policy: the difference is what the policy costs.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "That reads pages.", required=True)
    flags.DEFINE_string("budgets", None, "Comma-separated; default: 0, 1, 2, ... on.")
    flags.DEFINE_float("cost", None, "Of a policy's choices: above 0 for cheaper.")
    flags.DEFINE_integer("questions", 256, "In the batch.", lower_bound=1)
    flags.DEFINE_integer("rows", 32, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each.", lower_bound=1)


if __name__ == "__main__":
    command_line.begin(define_flags)

import collections
import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.data.prompts.request import Request
from visor_jax.evals.pages.benchmark import check_reads_pages
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.loading.load import load
from visor_jax.inference.routing.choose_budgets import AUTO
from visor_jax.inference.routing.router import HostRouter, PolicyRouter, Router
from visor_jax.inference.visor_model import VisorModel
from visor_jax.policy.features import PolicyFeatures
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.machine import machine_description
from visor_jax.runtime.stopwatch import take_turns
from visor_jax.timing.page_requests import page_requests

MIXED = "mixed"
# The policy's choices, by an engine that is told them.
TOLD = "auto, told"

Rule = Callable[[Request], int]


class Ruled(HostRouter):
    """A router whose rule changes between runs; one engine serves all of them.

    rule: which of the budgets a request gets.
    """

    def __init__(self, budgets: Sequence[Budget]) -> None:
        """Takes the budgets; at first every request gets the first of them."""
        self.rule: Rule = lambda request: 0
        super().__init__(budgets, lambda request: self.rule(request))


class Remembering:
    """A router that asks another one and remembers what it said of each request."""

    def __init__(self, router: Router) -> None:
        """Takes the router that is asked."""
        self._router = router
        self.budgets, self.params = router.budgets, router.params
        self._said: dict[int, int] = {}

    def scores(self, params: Any, features: PolicyFeatures) -> Array:
        """Returns the router's scores."""
        return self._router.scores(params, features)

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns what the router says."""
        chosen = self._router.choose(scores, requests)
        self._said |= {id(r): k for r, k in zip(requests, chosen, strict=True)}
        return chosen

    def said(self, request: Request) -> int:
        """Returns what the router said of a request."""
        return self._said[id(request)]


@dataclasses.dataclass(frozen=True)
class Timed:
    """Runs of one way of choosing. seconds: of each. shares: questions per budget."""

    seconds: tuple[float, ...]
    shares: dict[str, int]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def engine_times(
    model: VisorModel,
    requests: Sequence[Request],
    budgets: Sequence[Budget],
    *,
    policy: Router | None = None,
    config: EngineConfig,
    repeats: int,
) -> dict[str, Timed]:
    """Returns the times of a mixed batch, of each budget alone, and of the policy's.

    All runs are made in turn, `repeats` times after one that is not counted; every
    other time in reverse, so that none always follows the same one.

    Args:
      policy: whose choices are timed too (`AUTO`), and right beside it without it
        (`TOLD`).
    """
    ruled = Ruled(budgets)
    plain = model.engine(ruled, config=config, images_kept=0)
    place = {id(request): i for i, request in enumerate(requests)}
    rules: dict[str, Rule] = {MIXED: lambda r: place[id(r)] % len(budgets)}
    for index, budget in enumerate(budgets):
        rules[budget.name] = functools.partial(lambda i, _: i, index)
    engines = dict.fromkeys(rules, plain)
    if policy is not None:
        asked = Remembering(policy)
        rules[TOLD] = asked.said
        # First, so that there is something to be told.
        with_policy = model.engine(asked, config=config, images_kept=0)
        engines = {AUTO: with_policy, TOLD: plain} | engines
    shares: dict[str, dict[str, int]] = {}

    def answer(name: str) -> None:
        ruled.rule = rules.get(name, ruled.rule)
        shares[name] = _answer_all(engines[name], requests)

    programs = {name: functools.partial(answer, name) for name in engines}
    seconds = take_turns(programs, runs=repeats, there_and_back=True)
    return {n: Timed(tuple(s), dict(shares[n])) for n, s in seconds.items()}


def _answer_all(engine: Engine, requests: Sequence[Request]) -> dict[str, int]:
    """Returns how many of the requests each budget answered."""
    answers = engine.answer_all(requests)
    wrong = [answer.error for answer in answers if answer.error]
    if wrong:
        raise ValueError(f"{len(wrong)} questions failed: {wrong[0]}")
    return collections.Counter(answer.budget.name for answer in answers)


def policy_cost(times: Mapping[str, Timed]) -> float:
    """Returns the seconds that the policy takes: the median of the rounds' differences.

    Runs of one round meet the same machine, so that they are compared in pairs.
    """
    pairs = zip(times[AUTO].seconds, times[TOLD].seconds, strict=True)
    return statistics.median(auto - told for auto, told in pairs)


def predicted(times: Mapping[str, Timed], name: str) -> float:
    """Returns what a mixture should take, from each budget's own seconds."""
    shares = times[name].shares
    total = sum(n * times[budget].median for budget, n in shares.items())
    return total / sum(shares.values())


def main(arguments: list[str]) -> None:
    """Prints the table. A user's mistake ends with code 2."""
    del arguments
    options = flags.FLAGS
    keep_freed_memory()
    with command_line.user_errors():
        _check_reads_pages(options.checkpoint)
        model = load(options.checkpoint)
        policy, budgets = _choices(model, options)
        config = EngineConfig.of(
            rows=options.rows,
            slots=max(2 * options.rows, EngineConfig.requests_per_row),
            images_at_once=min(options.rows, EngineConfig.images_at_once),
            new_tokens=model.processor.new_tokens,
        )
        times = engine_times(
            model,
            page_requests(options.questions),
            budgets,
            policy=policy,
            config=config,
            repeats=options.repeats,
        )
    print("\n".join(_lines(times, options)))


def _lines(times: Mapping[str, Timed], options: Any) -> list[str]:
    """Returns the table, and what the mixtures should have taken."""
    count, repeats = options.questions, options.repeats
    lines = [
        f"{machine_description()}, {count} questions, median of {repeats}",
        f"{'budget':<16} {'seconds':>8} {'fastest':>8} {'ms/question':>12}",
    ]
    for name, timed in times.items():
        fastest, each = min(timed.seconds), 1e3 * timed.median / count
        lines.append(f"{name:<16} {timed.median:8.3f} {fastest:8.3f} {each:12.2f}")
    for name in (MIXED, TOLD, AUTO):
        if name in times:
            expected, measured = predicted(times, name), times[name].median
            lines.append(
                f"{name}, from the budgets' own times: {expected:.3f} s; measured "
                f"{measured:.3f} s, {100 * (measured / expected - 1):+.1f} %"
            )
    if AUTO in times:
        cost = policy_cost(times)
        lines.append(
            f"the policy: {1e3 * cost / count:+.3f} ms/question, "
            f"{100 * cost / times[TOLD].median:+.1f} % of the same choices without it"
        )
    return lines


def _check_reads_pages(checkpoint: str) -> None:
    stored = newest_network(checkpoint)
    check_reads_pages(stored.config, stored.metadata)


def _choices(
    model: VisorModel, options: Any
) -> tuple[PolicyRouter | None, Sequence[Budget]]:
    """Returns the policy, if it is asked, and the budgets that are timed."""
    if model.policy is not None and options.budgets is None:
        cost = 0.0 if options.cost is None else options.cost
        return PolicyRouter(model.policy, model.budgets, cost), model.budgets.budgets
    if options.cost is not None:
        why = "--budgets leaves it out" if model.policy else "this checkpoint has none"
        raise ValueError(f"--cost={options.cost:g} is for a policy, and {why}.")
    return None, BudgetSet.parse(options.budgets, model.config.plan).budgets


if __name__ == "__main__":
    command_line.run(main)
