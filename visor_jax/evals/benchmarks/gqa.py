"""GQA (Hudson and Manning 2019): one word about a picture, scored by exact match.

As lmms-eval's task `gqa`. The hub has the pictures in a configuration of their own.
"""

from visor_jax.evals.answered.figure import mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.exact_match import exact_match
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_IDS = ("lmms-lab-encoder/GQA", "lmms-lab/GQA")


def _read(row: cells.Row, number: int) -> Question:
    return Question(
        id=cells.optional(row, "id", "index") or str(number),
        prompt=prompts.short(cells.text(row, "question")),
        references=(cells.text(row, "answer"),),
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, exact_match(answer, question.references)


GQA = Definition(
    name="gqa",
    source=Source(ids=_IDS, config="testdev_balanced_instructions", split="testdev"),
    columns=("id", "imageId", "question", "answer"),
    picture_source=Source(ids=_IDS, config="testdev_balanced_images", split="testdev"),
    picture_key={"imageId": "id"},
    tsv="GQA_TestDev_Balanced",
    tsv_columns=("index", "question", "answer", "image"),
    read=_read,
    score=_score,
    figures=lambda categories: [mean("exact_match")],
    metric="exact match",
    new_tokens=16,
    count=12578,
)
