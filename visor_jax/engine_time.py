"""Times a mixed batch: does a saving per question become a saving of time?

    python -m visor_jax.engine_time --checkpoint=runs/universal [--budgets=none,all]

Questions about pages go through the engine, each budget's turn by turn, and once all in
one budget at a time. What the mixed batch should take follows from each budget's own
time: the sum of its questions' shares. Images are encoded anew in every run. With a
policy's checkpoint its own choices are timed as well.
"""

import collections
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Array

from visor_jax import command_line
from visor_jax.data.pages.pool import make_pool
from visor_jax.data.pages.questions import TASKS
from visor_jax.flops.__main__ import parse_budgets, spread
from visor_jax.inference.choose_budgets import AUTO
from visor_jax.inference.choosers import Chooser, HostChooser, PolicyChooser
from visor_jax.inference.reader import Request
from visor_jax.inference.sizes import Sizes
from visor_jax.inference.visor_model import VisorModel
from visor_jax.library import load
from visor_jax.policy.features import PolicyFeatures
from visor_jax.training.host_memory import keep_freed_memory
from visor_jax.training.run_record import machine_description

MIXED = "mixed"


def page_requests(count: int, *, seed: int = 0) -> list[Request]:
    """Returns a question about each of `count` test pages, tasks in turn."""
    pool, tasks = make_pool("test", count, seed=seed), list(TASKS.values())
    return [
        Request(task.questions[i % len(task.questions)].text, [page])
        for i, page in enumerate(pool.pages)
        for task in [tasks[i % len(tasks)]]
    ]


class Steered:
    """A chooser that can be overruled between runs; one engine serves all of them.

    rule: which of the budgets a request gets; None asks the chooser.
    """

    def __init__(self, chooser: Chooser) -> None:
        """Takes the chooser that is asked where there is no rule."""
        self._chooser = chooser
        self.budgets, self.params = chooser.budgets, chooser.params
        self.rule: Callable[[Request], int] | None = None

    def scores(self, params: Any, features: PolicyFeatures) -> Array:
        """Returns the chooser's scores."""
        return self._chooser.scores(params, features)

    def choose(self, scores: np.ndarray, requests: Sequence[Request]) -> Sequence[int]:
        """Returns what the rule says, or else the chooser."""
        if self.rule is None:
            return self._chooser.choose(scores, requests)
        return [self.rule(request) for request in requests]


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
    chooser: Chooser,
    *,
    auto: bool,
    sizes: Sizes,
    repeats: int,
) -> dict[str, Timed]:
    """Returns the times of a mixed batch, of each budget alone, and of the policy's.

    All runs are made in turn, `repeats` times after one that is not counted.

    Args:
      auto: whether the chooser itself is timed as well.
    """
    steered = Steered(chooser)
    place = {id(request): i for i, request in enumerate(requests)}
    count = len(chooser.budgets)
    rules: dict[str, Callable[[Request], int] | None] = {
        MIXED: lambda request: place[id(request)] % count
    }
    for index, budget in enumerate(chooser.budgets):
        rules[budget.name] = functools.partial(lambda i, _: i, index)
    if auto:
        rules[AUTO] = None
    engine = model.engine(steered, sizes=sizes, images_kept=0)
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    shares: dict[str, dict[str, int]] = {}
    for _ in range(repeats + 1):
        for name, steered.rule in rules.items():
            began = time.perf_counter()
            answers = engine.answer_all(requests)
            seconds[name].append(time.perf_counter() - began)
            wrong = [answer.error for answer in answers if answer.error]
            if wrong:
                raise ValueError(f"{len(wrong)} questions failed: {wrong[0]}")
            shares[name] = collections.Counter(a.budget.name for a in answers)
    return {n: Timed(tuple(s[1:]), dict(shares[n])) for n, s in seconds.items()}


def predicted(times: dict[str, Timed], name: str) -> float:
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
        model = load(options.checkpoint)
        auto = model.policy is not None and options.budgets is None
        sizes = Sizes(
            rows=options.rows,
            waiting=4 * options.rows,
            slots=2 * options.rows,
            new_tokens=model.reader.new_tokens,
        )
        times = engine_times(
            model,
            page_requests(options.questions),
            _chooser(model, options, auto=auto),
            auto=auto,
            sizes=sizes,
            repeats=options.repeats,
        )
    count = options.questions
    print(f"{machine_description()}, {count} questions, median of {options.repeats}")
    print(f"{'budget':<16} {'seconds':>8} {'fastest':>8} {'ms/question':>12}")
    for name, timed in times.items():
        fastest, each = min(timed.seconds), 1e3 * timed.median / count
        print(f"{name:<16} {timed.median:8.3f} {fastest:8.3f} {each:12.2f}")
    for name in [MIXED, AUTO] if auto else [MIXED]:
        expected, measured = predicted(times, name), times[name].median
        print(
            f"{name}, from the budgets' own times: {expected:.3f} s; measured "
            f"{measured:.3f} s, {100 * (measured / expected - 1):+.1f} %"
        )


def _chooser(model: VisorModel, options: Any, *, auto: bool) -> Chooser:
    if auto:
        return PolicyChooser(model.policy, model.budgets, options.cost)
    plan = model.config.plan
    if options.budgets is None:
        budgets = [spread(n, plan) for n in range(len(plan.self_layers) + 1)]
    else:
        budgets = parse_budgets(options.budgets, plan)
    return HostChooser(budgets, lambda request: 0)


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "That reads pages.", required=True)
    flags.DEFINE_string("budgets", None, "Comma-separated; default: 0, 1, 2, ... on.")
    flags.DEFINE_float("cost", 0.0, "Of a policy's choices: above 0 for cheaper.")
    flags.DEFINE_integer("questions", 256, "In the batch.", lower_bound=1)
    flags.DEFINE_integer("rows", 32, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
