"""MMMU, validation (Yue et al. 2024): college subjects, options or open answers.

As lmms-eval's task `mmmu_val` with pictures first, where "<image 1>" stays in the text.
An answer without an option is wrong here and not drawn by chance; "with_chance" says
what drawing gives on average.
"""

import json
import re
from collections.abc import Sequence

from visor_jax.evals.answered.figure import Answered, Figure, by_category, mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.mmmu import (
    choice_reading,
    expected_by_chance,
    open_reading,
    open_score,
)
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

CHOICE, OPEN = "multiple-choice", "open"
_PICTURES = tuple(f"image_{n}" for n in range(1, 8))
_MENTIONED = re.compile(r"<image (\d+)>")
_SUBJECT = re.compile(r"[^_]+_(.+?)_\d+")


def _read(row: cells.Row, number: int) -> Question | None:
    # VLMEvalKit has two splits in one table.
    if cells.optional(row, "split") not in (None, "validation"):
        return None
    choices = cells.options(row, "options")
    kind = cells.optional(row, "question_type") or (CHOICE if choices else OPEN)
    question = cells.text(row, "question")
    is_choice = kind == CHOICE
    if is_choice:
        question = f"{question}\n{prompts.lines_of_options(choices)}"
    said = _SUBJECT.fullmatch(cells.optional(row, "id") or "")
    answer = cells.text(row, "answer")
    return Question(
        id=cells.optional(row, "id", "index") or str(number),
        prompt=f"{question}\n\n{prompts.LETTER if is_choice else prompts.SHORT}",
        references=cells.texts(answer),
        category=said[1] if said else cells.optional(row, "category") or "",
        choices=choices if is_choice else (),
        kind=CHOICE if is_choice else OPEN,
    )


def _pictures(row: cells.Row) -> list[bytes]:
    """Returns those that question or options mention, by their numbers."""
    if "image" in row:
        return cells.pictures(row, "image")
    said = f"{row['question']} {row['options']}"
    numbers = sorted({int(each) for each in _MENTIONED.findall(said)})
    return cells.pictures(row, *(f"image_{number}" for number in numbers))


def _score(question: Question, answer: str) -> tuple[str | None, float]:
    if question.kind == CHOICE:
        letter = choice_reading(answer, question.choices)
        return letter, float(letter in question.references)
    return json.dumps(open_reading(answer)), open_score(answer, question.references)


def _unread(answered: Answered) -> float:
    is_choice = answered.question.kind == CHOICE
    return float(is_choice and answered.answer is not None and answered.parsed is None)


def _with_chance(answered: Answered) -> float:
    question = answered.question
    if not _unread(answered):
        return answered.score
    return expected_by_chance(None, question.references[0], question.choices)


def _figures(categories: Sequence[str]) -> list[Figure]:
    return [
        mean("accuracy"),
        mean("with_chance", _with_chance),
        mean("unread", _unread),
        *by_category(categories),
    ]


MMMU = Definition(
    name="mmmu",
    source=Source(ids=("lmms-lab-encoder/MMMU", "lmms-lab/MMMU"), split="validation"),
    columns=("id", "question", "options", "question_type", "answer", *_PICTURES),
    tsv="MMMU_DEV_VAL",
    tsv_columns=("index", "question", "A", "B", "answer", "split", "image"),
    pictures=_PICTURES,
    pictures_of=_pictures,
    read=_read,
    score=_score,
    figures=_figures,
    metric="last option, or tail",
    new_tokens=128,
    count=900,
)
