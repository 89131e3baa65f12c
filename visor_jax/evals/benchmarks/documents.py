"""DocVQA and InfoVQA: short answers that stand in a document, scored by ANLS.

Mathew et al. 2021, 2022. Prompts, lengths and metric are those of lmms-eval's tasks
`docvqa_val` and `infovqa_val`.
"""

from visor_jax.evals.answered.figure import mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.anls import anls
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_IDS = ("lmms-lab-encoder/DocVQA", "lmms-lab/DocVQA")
_COLUMNS = ("questionId", "question", "answers", "image")


def _read(row: cells.Row, number: int) -> Question:
    answers = row["answers"] if "answers" in row else row["answer"]
    return Question(
        id=cells.optional(row, "questionId", "index") or str(number),
        prompt=prompts.short(cells.text(row, "question")),
        references=cells.texts(answers),
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, anls(answer, question.references)


def _definition(name: str, config: str, count: int, tsv: str) -> Definition:
    return Definition(
        name=name,
        source=Source(ids=_IDS, config=config, split="validation"),
        columns=_COLUMNS,
        tsv=tsv,
        tsv_columns=("index", "question", "answer", "image"),
        read=_read,
        score=_score,
        figures=lambda categories: [mean("anls")],
        metric="ANLS",
        new_tokens=32,
        count=count,
    )


DOCVQA = _definition("docvqa", "DocVQA", 5349, "DocVQA_VAL")
INFOVQA = _definition("infovqa", "InfographicVQA", 2801, "InfoVQA_VAL")
