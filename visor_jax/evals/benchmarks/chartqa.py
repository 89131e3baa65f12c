"""ChartQA (Masry et al. 2022): numbers and words of charts, half of them from people.

As lmms-eval's task `chartqa`. Other years that the tolerance takes for right are
counted: "2021" is within five per cent of "2020".
"""

from collections.abc import Sequence

from visor_jax.evals.answered.figure import Answered, Figure, mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.relaxed_accuracy import is_other_year, relaxed_accuracy
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

HUMAN, AUGMENTED = "human_test", "augmented_test"


def _read(row: cells.Row, number: int) -> Question:
    half = cells.text(row, "type", "split")
    return Question(
        id=cells.optional(row, "index") or str(number),
        prompt=f"{cells.text(row, 'question')}\n{prompts.SINGLE_WORD}",
        references=(cells.text(row, "answer"),),
        category=HUMAN if "human" in half else AUGMENTED,
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, relaxed_accuracy(answer, question.references[0])


def _other_year(answered: Answered) -> float:
    said, (right,) = answered.answer, answered.question.references
    return float(said is not None and is_other_year(said, right))


def _figures(categories: Sequence[str]) -> list[Figure]:
    del categories
    return [
        mean("relaxed_overall"),
        mean("relaxed_human_split", where=lambda q: q.category == HUMAN),
        mean("relaxed_augmented_split", where=lambda q: q.category == AUGMENTED),
        mean("other_years_that_count", _other_year),
    ]


CHARTQA = Definition(
    name="chartqa",
    source=Source(ids=("lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA"), split="test"),
    columns=("type", "question", "answer", "image"),
    tsv="ChartQA_TEST",
    tsv_columns=("index", "split", "question", "answer", "image"),
    read=_read,
    score=_score,
    figures=_figures,
    metric="relaxed accuracy",
    new_tokens=16,
    count=2500,
)
