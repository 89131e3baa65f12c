"""Times a benchmark's questions through the engine, and one by one.

    python -m visor_jax.timing.benchmark --checkpoint=RUN --benchmark=easy_vqa \\
        --data=data/easy_vqa --limit=2000 [--budget=all]

The same questions both ways, greedily, in the order in which `evaluate` asks them: how
many answers are the same, seconds of both, and how many pictures went through the
tower. What is compiled is compiled before, by questions that are not counted.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Checkpoint or Hub id.", required=True)
    flags.DEFINE_string("benchmark", None, "A known one.", required=True)
    flags.DEFINE_string("data", None, "Folder of its files.", required=True)
    flags.DEFINE_string("budget", None, "Of all questions; default: the largest.")
    flags.DEFINE_integer(
        "limit", 2000, "So many questions, of whole pictures.", lower_bound=2
    )
    flags.DEFINE_integer(
        "warm_up", 100, "Questions before, that are not counted.", lower_bound=1
    )
    flags.DEFINE_integer("rows", 8, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("slots", 16, "Answers written at once.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmark import Example
from visor_jax.evals.benchmarks.registry import definition_of
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.loading.load import load
from visor_jax.inference.visor_model import VisorModel
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.machine import machine_description


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Questions answered both ways.

    equal: answers that are the same text. pictures: different ones. encoded: pictures
    that went through the tower, by the engine.
    """

    questions: int
    equal: int
    engine_seconds: float
    one_by_one_seconds: float
    pictures: int
    encoded: int

    @property
    def times_as_fast(self) -> float:
        return self.one_by_one_seconds / self.engine_seconds


def compare(
    model: VisorModel,
    benchmark: TableBenchmark,
    *,
    budget: str | None,
    warm_up: int,
    rows: int = 8,
    slots: int = 16,
    clock: Callable[[], float] = time.perf_counter,
) -> Compared:
    """Returns both ways of answering the benchmark's questions, with their seconds.

    Args:
      warm_up: so many questions, and the others about their pictures, are asked
        before and not counted. clock: in seconds.

    Raises:
      ValueError: for a budget that the network lacks, a question that it cannot
        answer, or none that is left.
    """
    first, counted = _split(benchmark, warm_up)
    tokens = benchmark.new_tokens
    engine = model.engine(budget, config=_config(tokens, rows, slots))

    def by_engine(some: Sequence[Request]) -> list[str]:
        return _answers(engine, some)

    def one_by_one(some: Sequence[Request]) -> list[str]:
        how = {"batch_size": 1, "max_new_tokens": tokens}
        return [model.generate_all([each], budget, **how)[0] for each in some]

    for ask in (by_engine, one_by_one):
        ask([example.request for example in first])
    before = engine.scheduler.images.images_run
    found, seconds = [], []
    for ask in (by_engine, one_by_one):
        began = clock()
        found.append(ask([example.request for example in counted]))
        seconds.append(clock() - began)
    return Compared(
        questions=len(counted),
        equal=sum(one == other for one, other in zip(*found, strict=True)),
        engine_seconds=seconds[0],
        one_by_one_seconds=seconds[1],
        pictures=len({benchmark.picture_of[each.id] for each in counted}),
        encoded=engine.scheduler.images.images_run - before,
    )


def _split(
    benchmark: TableBenchmark, warm_up: int
) -> tuple[list[Example], list[Example]]:
    """Returns the first questions and the others, about other pictures."""
    examples = list(benchmark.examples())
    pictures = [benchmark.picture_of[each.id] for each in examples]
    seen = set(pictures[:warm_up])
    # Questions about one picture stand together.
    count = sum(picture in seen for picture in pictures)
    if count == len(examples):
        raise ValueError(
            f"--warm_up={warm_up} leaves none of {count} questions: give a smaller "
            "one, or a larger --limit."
        )
    return examples[:count], examples[count:]


def _config(tokens: int, rows: int, slots: int) -> EngineConfig:
    """Returns the sizes that `evaluate --benchmarks` has."""
    return EngineConfig(
        rows=rows,
        pending=4 * rows,
        slots=slots,
        requests_per_row=min(EngineConfig.requests_per_row, slots),
        new_tokens=tokens,
    )


def _answers(engine: Engine, requests: Sequence[Request]) -> list[str]:
    answers = engine.answer_all(requests)
    wrong = [answer.error for answer in answers if answer.error]
    if wrong:
        raise ValueError(f"{len(wrong)} questions failed: {wrong[0]}")
    return [answer.text for answer in answers]


def main(arguments: list[str]) -> None:
    """Prints what both ways took. A user's mistake ends with code 2."""
    del arguments
    options = flags.FLAGS
    keep_freed_memory()
    with command_line.user_errors():
        benchmark = TableBenchmark.open(
            definition_of(options.benchmark),
            Path(options.data),
            limit=options.limit + options.warm_up,
        )
        found = compare(
            load(options.checkpoint),
            benchmark,
            budget=options.budget,
            warm_up=options.warm_up,
            rows=options.rows,
            slots=options.slots,
        )
    print("\n".join(_lines(found, benchmark.name)))


def _lines(found: Compared, name: str) -> list[str]:
    def each(seconds: float) -> str:
        return f"{seconds:.1f} s, {1e3 * seconds / found.questions:.1f} ms a question"

    return [
        f"{machine_description()}: {found.questions} questions of {name} about "
        f"{found.pictures} pictures",
        f"engine      {each(found.engine_seconds)}; {found.encoded} pictures encoded",
        f"one by one  {each(found.one_by_one_seconds)}",
        f"the engine is {found.times_as_fast:.1f} times as fast; {found.equal} of "
        f"{found.questions} answers are the same",
    ]


if __name__ == "__main__":
    command_line.run(main)
