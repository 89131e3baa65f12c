"""MME (Fu et al. 2023): two questions a picture, one of them to be answered no.

As lmms-eval's task `mme`. A category gives the share of right answers and the share of
pictures with both right, each of a hundred points; perception and cognition are sums.
"""

import math
from collections.abc import Sequence

import numpy as np

from visor_jax.evals.answered.figure import Answered, Figure, Sums, mean, ratio
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.yes_no import mme_reading
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = (
    *("commonsense_reasoning", "numerical_calculation"),
    *("text_translation", "code_reasoning"),
)
_CUT_OUT = " Please answer yes or no."


def _read(row: cells.Row, number: int) -> Question:
    category = cells.text(row, "category")
    if category not in (*PERCEPTION, *COGNITION):
        raise ValueError(f"category {category!r} is none of MME's.")
    # Both questions about a picture have the same one.
    numbered = cells.optional(row, "question_id")
    question = cells.text(row, "question").strip().replace(_CUT_OUT, "")
    return Question(
        id=cells.optional(row, "index") or f"{numbered}#{number}",
        prompt=prompts.short(question),
        references=(cells.text(row, "answer").strip().lower().replace(".", ""),),
        group="" if numbered is None else f"{category}/{numbered}",
        category=category,
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    said = mme_reading(answer)
    return said, float(said == question.references[0])


def points(name: str, categories: Sequence[str]) -> Figure:
    """Returns the points of those of these categories that were asked, together."""

    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        found: dict[str, float] = {}
        for category in categories:
            right = [a.is_right for a in group if a.question.category == category]
            if right:
                found |= {
                    f"right {category}": float(sum(right)),
                    f"questions {category}": float(len(right)),
                    f"both {category}": float(all(right)),
                    f"pictures {category}": 1.0,
                }
        return found

    def combine(sums: Sums) -> np.ndarray:
        parts = [
            100 * np.nan_to_num(ratio(sums[f"{part} {each}"], sums[f"{whole} {each}"]))
            for each in categories
            if f"questions {each}" in sums
            for part, whole in (("right", "questions"), ("both", "pictures"))
        ]
        return np.asarray(sum(parts) if parts else math.nan)

    return Figure(name=name, of_group=of_group, combine=combine, points=True)


def _figures(categories: Sequence[str]) -> list[Figure]:
    return [
        points("perception", PERCEPTION),
        points("cognition", COGNITION),
        mean("accuracy"),
        *(points(category, [category]) for category in categories),
    ]


MME = Definition(
    name="mme",
    source=Source(ids=("lmms-lab-encoder/MME", "lmms-lab/MME"), split="test"),
    columns=("question_id", "question", "answer", "category", "image"),
    tsv="MME",
    tsv_columns=("index", "question", "answer", "category", "image"),
    read=_read,
    score=_score,
    figures=_figures,
    metric="points, of 2000 and 800",
    new_tokens=16,
    count=2374,
)
