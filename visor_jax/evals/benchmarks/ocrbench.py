"""OCRBench (Liu et al. 2024): a thousand questions about text in pictures.

As lmms-eval's task `ocrbench`, but that a score is one of what was asked: there it is
added up in the module and divided by a thousand, whatever the limit.
"""

from collections.abc import Sequence

from visor_jax.evals.answered.figure import Figure, by_category, mean
from visor_jax.evals.metrics.ocrbench import FORMULAS, holds_reference
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_FORMULA_TYPE = "Handwritten Mathematical Expression Recognition"


def _read(row: cells.Row, number: int) -> Question:
    kind = cells.text(row, "question_type", "category")
    dataset = cells.optional(row, "dataset")
    if dataset is None and kind == _FORMULA_TYPE:
        dataset = FORMULAS
    return Question(
        id=cells.optional(row, "index") or str(number),
        prompt=cells.text(row, "question").strip(),
        references=cells.texts(row["answer"]),
        category=kind,
        kind=dataset or "",
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, holds_reference(answer, question.references, question.kind)


def _figures(categories: Sequence[str]) -> list[Figure]:
    return [mean("accuracy"), *by_category(categories)]


OCRBENCH = Definition(
    name="ocrbench",
    source=Source(ids=("echo840/OCRBench",), split="test"),
    columns=("dataset", "question", "question_type", "answer", "image"),
    tsv="OCRBench",
    tsv_columns=("index", "category", "question", "answer", "image"),
    read=_read,
    score=_score,
    figures=_figures,
    metric="answer holds a reference",
    new_tokens=128,
    count=1000,
)
