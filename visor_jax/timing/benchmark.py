"""Times a benchmark's questions through the engine, and one by one.

    python -m visor_jax.timing.benchmark --checkpoint=RUN --benchmark=easy_vqa \\
        --data=data/easy_vqa --limit=2000 [--budget=all]

The same questions both ways, greedily, in the order in which `evaluate` asks them: how
many answers are the same, seconds of both, and how many pictures went through the
tower. All of them are asked twice, and the second time is counted: by then every
program is compiled. What the engine keeps of pictures is let go between.
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
        "limit", 2000, "So many questions, of whole pictures.", lower_bound=1
    )
    flags.DEFINE_integer("rows", 8, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("slots", 16, "Answers written at once.")
    flags.DEFINE_integer("repeats", 3, "Counted turns of both ways.", lower_bound=1)


if __name__ == "__main__":
    command_line.begin(define_flags)

import collections
import dataclasses
import functools
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from visor_jax.data.prompts.request import Request
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

    equal: answers that are the same text, in the last turn. engine_seconds,
    one_by_one_seconds: of each turn. pictures: different ones. encoded: pictures that
    went through the tower, by the engine, in a turn.
    """

    questions: int
    equal: int
    engine_seconds: tuple[float, ...]
    one_by_one_seconds: tuple[float, ...]
    pictures: int
    encoded: int

    @property
    def times_as_fast(self) -> float:
        """By the medians of the turns."""
        one_by_one = statistics.median(self.one_by_one_seconds)
        return one_by_one / statistics.median(self.engine_seconds)


def compare(
    model: VisorModel,
    benchmark: TableBenchmark,
    *,
    budget: str | None,
    rows: int = 8,
    slots: int = 16,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Compared:
    """Returns both ways of answering the benchmark's questions, with their seconds.

    Args:
      repeats: counted turns of both. clock: in seconds.

    Raises:
      ValueError: for a budget that the network lacks, or a question that it cannot
        answer.
    """
    examples = list(benchmark.examples())
    requests = [example.request for example in examples]
    tokens = benchmark.new_tokens
    config = EngineConfig.of(rows=rows, slots=slots, new_tokens=tokens)
    engine = model.engine(budget, config=config)
    turns = _Turns(engine, clock)
    for _ in range(1 + repeats):
        turns.take("engine", functools.partial(_answers, engine, requests))
        alone = functools.partial(_one_by_one, model, budget, tokens, requests)
        turns.take("one by one", alone)
    return Compared(
        questions=len(requests),
        equal=sum(map(operator.eq, *turns.answers.values())),
        engine_seconds=tuple(turns.seconds["engine"][1:]),
        one_by_one_seconds=tuple(turns.seconds["one by one"][1:]),
        pictures=len({benchmark.picture_of[each.id] for each in examples}),
        encoded=turns.encoded,
    )


class _Turns:
    """Turns of both ways. encoded: pictures that the engine encoded in one, at most.

    answers: of the last turn of each way. seconds: of all of its turns.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock
        self.answers: dict[str, list[str]] = {}
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)
        self.encoded = 0

    def take(self, name: str, ask: Callable[[], list[str]]) -> None:
        """Asks all in one way, of which the engine has kept nothing."""
        self._engine.forget_images()
        before = self._engine.scheduler.images.images_run
        began = self._clock()
        self.answers[name] = ask()
        self.seconds[name].append(self._clock() - began)
        encoded = self._engine.scheduler.images.images_run - before
        self.encoded = max(self.encoded, encoded)


def _one_by_one(
    model: VisorModel, budget: str | None, tokens: int, requests: Sequence[Request]
) -> list[str]:
    how = {"batch_size": 1, "max_new_tokens": tokens}
    return [model.generate_all([each], budget, **how)[0] for each in requests]


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
            limit=options.limit,
        )
        found = compare(
            load(options.checkpoint),
            benchmark,
            budget=options.budget,
            rows=options.rows,
            slots=options.slots,
            repeats=options.repeats,
        )
    print("\n".join(_lines(found, benchmark.name)))


def _lines(found: Compared, name: str) -> list[str]:
    def each(turns: Sequence[float]) -> str:
        seconds = statistics.median(turns)
        spread = f"{min(turns):.1f} to {max(turns):.1f}"
        per_question = 1e3 * seconds / found.questions
        return f"{seconds:.1f} s ({spread}), {per_question:.1f} ms a question"

    return [
        f"{machine_description()}: {found.questions} questions of {name} about "
        f"{found.pictures} pictures, median of {len(found.engine_seconds)} turns",
        f"engine      {each(found.engine_seconds)}; {found.encoded} pictures encoded",
        f"one by one  {each(found.one_by_one_seconds)}",
        f"the engine is {found.times_as_fast:.1f} times as fast; {found.equal} of "
        f"{found.questions} answers are the same",
    ]


if __name__ == "__main__":
    command_line.run(main)
