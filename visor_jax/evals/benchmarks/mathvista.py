"""MathVista, testmini (Lu et al. 2024), with the prompts of lmms-eval's
`mathvista_testmini_format` and scores by rules alone, no judge (`metrics.mathvista`).
"""

from visor_jax.evals.answered.figure import mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.mathvista import (
    CHOICE,
    FLOAT,
    INTEGER,
    LIST,
    accuracy_rules,
    result_of,
)
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_SENTENCES = {
    CHOICE: prompts.LETTER,
    INTEGER: "Answer the question using a single integer number.",
    f"{FLOAT} 1": "Answer the question using a single floating-point number with one "
    "decimal place.",
    f"{FLOAT} 2": "Answer the question using a single floating-point number with two "
    "decimal places.",
    LIST: "Answer the question using a Python list.",
}


def _read(row: cells.Row, number: int) -> Question:
    kind = CHOICE
    if cells.text(row, "question_type") != "multi_choice":
        kind = cells.text(row, "answer_type")
    if kind == FLOAT:
        kind = f"{FLOAT} {int(float(cells.text(row, 'precision')))}"
    if kind not in _SENTENCES:
        raise ValueError(f"{kind!r} is none of MathVista's kinds {list(_SENTENCES)}.")
    unit, choices = cells.optional(row, "unit"), cells.options(row, "choices")
    question = cells.text(row, "question")
    lines = [
        question if unit is None else f"{question} (Unit: {unit})",
        prompts.lines_of_options(choices),
        _SENTENCES[kind],
    ]
    return Question(
        id=cells.optional(row, "pid") or str(number),
        prompt="\n".join(line for line in lines if line).strip(),
        references=(cells.text(row, "answer"),),
        category=cells.text(row, "answer_type"),
        choices=choices,
        kind=kind,
    )


def _score(question: Question, answer: str) -> tuple[str | None, float]:
    kind, _, places = question.kind.partition(" ")
    how = kind, question.choices, int(places) if places else None
    score = accuracy_rules(answer, question.references[0], *how)
    return result_of(answer, *how), score


MATHVISTA = Definition(
    name="mathvista",
    source=Source(ids=("AI4Math/MathVista",), split="testmini"),
    columns=(
        *("pid", "question", "decoded_image", "choices", "unit", "precision"),
        *("question_type", "answer_type", "answer"),
    ),
    pictures=("decoded_image",),
    read=_read,
    score=_score,
    figures=lambda categories: [mean("accuracy_rules")],
    metric="accuracy_rules",
    new_tokens=128,
    count=1000,
)
