"""MMBench, English, dev (Liu et al. 2023): rotated options, right in every rotation.

As lmms-eval's task `mmbench_en_dev_static`: what its rules leave unread goes to the
extractor of letters and never to a judge (`metrics.mmbench`).
"""

from collections.abc import Sequence

from visor_jax.evals.answered.figure import Answered, Figure, mean, ratio
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.mmbench import (
    circle_is_right,
    option_reading,
    static_reading,
)
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

# Rotations of a question are numbered so many apart.
_APART = 1_000_000


def _read(row: cells.Row, number: int) -> Question:
    del number
    index, choices = cells.text(row, "index"), cells.options(row)
    hint = cells.optional(row, "hint")
    question = cells.text(row, "question")
    said = question if hint is None else f"{hint} {question}"
    listed = prompts.lines_of_options(choices)
    return Question(
        id=index,
        prompt=f"{said} There are several options:\n{listed}\n\n{prompts.LETTER}",
        references=(cells.letter(row["answer"], len(choices)),),
        group=str(int(float(index)) % _APART),
        category=cells.optional(row, "L2-category", "l2-category", "category") or "",
        choices=choices,
    )


def _score(question: Question, answer: str) -> tuple[str | None, float]:
    said = static_reading(answer, question.choices)
    return said, float(said == question.references[0])


def _circles(name: str, category: str | None = None) -> Figure:
    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        if category is not None and group[0].question.category != category:
            return {}
        right = circle_is_right(answered.is_right for answered in group)
        return {"right": right, "circles": 1.0}

    return Figure(
        name=name,
        of_group=of_group,
        combine=lambda sums: ratio(sums.get("right", 0), sums.get("circles", 0)),
    )


def _left_to_extractor(answered: Answered) -> float:
    said, choices = answered.answer, answered.question.choices
    return float(said is not None and option_reading(said, choices) is None)


def _figures(categories: Sequence[str]) -> list[Figure]:
    return [
        _circles("circular_accuracy"),
        mean("accuracy_of_rows"),
        mean("left_to_extractor", _left_to_extractor),
        *(_circles(category, category) for category in categories),
    ]


MMBENCH = Definition(
    name="mmbench",
    source=Source(
        ids=("lmms-lab-encoder/MMBench", "lmms-lab/MMBench"), config="en", split="dev"
    ),
    columns=("index", "question", "hint", "A", "B", "C", "D", "answer", "image"),
    other_columns=("category", "L2-category", "l2-category"),
    tsv="MMBench_DEV_EN",
    tsv_columns=("index", "question", "hint", "A", "B", "C", "D", "answer", "image"),
    read=_read,
    score=_score,
    figures=_figures,
    metric="circles all right",
    new_tokens=1024,
    count=4329,
)
