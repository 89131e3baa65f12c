"""Times a mixed batch: does a saving per question become a saving of time?

    python -m visor_jax.engine_time --checkpoint=runs/universal [--budgets=none,all]

Questions about pages go through the engine, each budget's turn by turn, and once all in
one budget at a time. What the mixed batch should take follows from each budget's own
time: the sum of its questions' shares. Images are encoded anew in every run.
"""

import collections
import statistics
import time
from collections.abc import Sequence

from absl import flags

from visor_jax import command_line
from visor_jax.budget import Budget
from visor_jax.data.pages.pool import make_pool
from visor_jax.data.pages.questions import TASKS
from visor_jax.flops.__main__ import parse_budgets, spread
from visor_jax.inference.choosers import HostChooser
from visor_jax.inference.reader import Request
from visor_jax.inference.sizes import Sizes
from visor_jax.library import VisorModel, load
from visor_jax.training.host_memory import keep_freed_memory
from visor_jax.training.run_record import machine_description

_MIXED = "mixed"


def page_requests(count: int, *, seed: int = 0) -> list[Request]:
    """Returns a question about each of `count` test pages, tasks in turn."""
    pool, tasks = make_pool("test", count, seed=seed), list(TASKS.values())
    return [
        Request(task.questions[i % len(task.questions)].text, [page])
        for i, page in enumerate(pool.pages)
        for task in [tasks[i % len(tasks)]]
    ]


def engine_times(
    model: VisorModel,
    requests: Sequence[Request],
    budgets: Sequence[Budget],
    *,
    sizes: Sizes,
    repeats: int,
) -> dict[str, list[float]]:
    """Returns the seconds of every run of the mixed batch and of each budget alone.

    All runs are made in turn, `repeats` times after one that is not counted.
    """
    place = {id(request): i for i, request in enumerate(requests)}
    only: list[int | None] = [None]

    def rule(request: Request) -> int:
        return place[id(request)] % len(budgets) if only[0] is None else only[0]

    engine = model.engine(HostChooser(budgets, rule), sizes=sizes, images_kept=0)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(repeats + 1):
        for index in (None, *range(len(budgets))):
            only[0] = index
            began = time.perf_counter()
            answers = engine.answer_all(requests)
            took = time.perf_counter() - began
            wrong = [answer.error for answer in answers if answer.error]
            if wrong:
                raise ValueError(f"{len(wrong)} questions failed: {wrong[0]}")
            if turn:
                name = _MIXED if index is None else budgets[index].name
                seconds[name].append(took)
    return dict(seconds)


def predicted(
    seconds: dict[str, float], budgets: Sequence[Budget], count: int
) -> float:
    """Returns what the mixed batch should take, from each budget's own seconds."""
    shares = collections.Counter(i % len(budgets) for i in range(count))
    return sum(n / count * seconds[budgets[i].name] for i, n in shares.items())


def main(arguments: list[str]) -> None:
    """Prints the table. A user's mistake ends with code 2."""
    del arguments
    options, sizes = flags.FLAGS, None
    keep_freed_memory()
    with command_line.user_errors():
        model = load(options.checkpoint)
        plan = model.config.plan
        if options.budgets is None:
            budgets = [spread(n, plan) for n in range(len(plan.self_layers) + 1)]
        else:
            budgets = parse_budgets(options.budgets, plan)
        sizes = Sizes(
            rows=options.rows,
            waiting=4 * options.rows,
            slots=2 * options.rows,
            new_tokens=model.reader.new_tokens,
        )
        requests = page_requests(options.questions)
        runs = engine_times(
            model, requests, budgets, sizes=sizes, repeats=options.repeats
        )
    count, seconds = len(requests), {k: statistics.median(v) for k, v in runs.items()}
    expected = predicted(seconds, budgets, count)
    print(f"{machine_description()}, {count} questions, median of {options.repeats}")
    print(f"{'budget':<16} {'seconds':>8} {'fastest':>8} {'ms/question':>12}")
    for name, median in seconds.items():
        fastest, each = min(runs[name]), 1e3 * median / count
        print(f"{name:<16} {median:8.3f} {fastest:8.3f} {each:12.2f}")
    print(
        f"mixed, from the budgets' own times: {expected:.3f} s; measured "
        f"{seconds[_MIXED]:.3f} s, {100 * (seconds[_MIXED] / expected - 1):+.1f} %"
    )


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "That reads pages.", required=True)
    flags.DEFINE_string("budgets", None, "Comma-separated; default: 0, 1, 2, ... on.")
    flags.DEFINE_integer("questions", 256, "In the batch.", lower_bound=1)
    flags.DEFINE_integer("rows", 32, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
