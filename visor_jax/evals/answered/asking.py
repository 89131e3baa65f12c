"""Asks a network a known benchmark's questions, through the batch engine.

An answer is a line of the file as soon as it is known; a run that was stopped goes on
with what is missing, by the rules of `inference.files.answer_file`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import visor_jax
from visor_jax.data.prompts.request import Request
from visor_jax.evals.answered import lines
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.files.answer_file import AnswerFile
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look import ALL
from visor_jax.look_cascade import look_name


@dataclasses.dataclass(frozen=True)
class _QuestionRequest(Request):
    """A request that says which question it is."""

    question: str = ""


def common_settings(
    model: VisorModel,
    benchmark: TableBenchmark,
    *,
    budget: str,
    cost: float,
    chat_template: str | None,
    look: str | None = None,
) -> dict[str, Any]:
    """Returns what all lines of a benchmark have in common.

    Args:
      budget: its name, or "auto" at this cost. look: which crops are looked at.

    Raises:
      ValueError: for a look that there is not.
    """
    name = None if look is None else look_name(look)
    return {
        "benchmark": benchmark.name,
        **benchmark.identity(),
        "checkpoint": model.fingerprint,
        "plan": model.config.to_dict()["plan"],
        "budget": budget,
        "cost": cost,
        "reducer": model.network.reduce,
        "chat_template": chat_template,
        "max_new_tokens": benchmark.new_tokens,
        "versions": {"visor_jax": visor_jax.__version__, "jax": jax.__version__},
        # Files from before there were looks say nothing of them.
        **({} if name in (None, ALL.name) else {"look": name}),
    }


def answer_file(
    benchmark: TableBenchmark, folder: Path, settings: dict[str, Any], **options: bool
) -> AnswerFile:
    """Returns the file of a benchmark's lines, with what is there already.

    options: `overwrite` and `retry_errors` of `AnswerFile`. Raises ValueError as that.
    """
    file = lines.file_of(folder, benchmark.name)
    digests = {each: benchmark.request_digest(each) for each in benchmark.questions}
    return AnswerFile(
        file, digests, settings, settings_path=lines.settings_of(file), **options
    )


def ask(
    engine: Engine,
    model: VisorModel,
    benchmark: TableBenchmark,
    answers: AnswerFile,
    *,
    budget: str,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, errors: None,
) -> bool:
    """Returns whether all questions are answered in the file; False if it was stopped.

    Args:
      engine: of the model at this budget; idle. answers: entered by the caller.
      stop: asked between two rounds. progress: gets (answers, errors) of the file.
    """

    def requests() -> Iterator[Request]:
        # What is written meanwhile is not to be asked, and was.
        for example in benchmark.examples(without=frozenset(answers.done)):
            yield _QuestionRequest(**vars(example.request), question=example.id)

    for finished in engine.rounds(requests()):
        for answer in finished:
            question = benchmark.questions[answer.request.question]
            line = lines.line_of(
                benchmark.definition,
                question,
                answer,
                model.vlm,
                budget=budget,
                request=benchmark.request_digest(question.id),
            )
            answers.write(line)
        progress(len(answers.done), answers.failed)
        if stop():
            return len(answers.done) == len(benchmark)
    return True
