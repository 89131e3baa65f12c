"""MathVista, testmini (Lu et al. 2024), with the prompts of lmms-eval's
`mathvista_testmini_format` and scores by rules alone, no judge (`metrics.mathvista`).

VLMEvalKit's table has the data set's whole query as its question; the question itself
(with its unit) is cut out of it, and says how many decimal places are wanted:

    Hint: Please answer the question requiring a floating-point number with one decimal
    place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.
    Question: How far is it? (Unit: m)
"""

import re

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


_QUERY = re.compile(
    r"Hint: (?P<hint>.*?)\nQuestion: (?P<question>.*?)(?:\nChoices:.*)?", re.DOTALL
)
_PLACES = {"one decimal place": 1, "two decimal places": 2}


def _read(row: cells.Row, number: int) -> Question:
    query = _QUERY.fullmatch(cells.text(row, "question").strip())
    kind = CHOICE
    if cells.text(row, "question_type") != "multi_choice":
        kind = cells.text(row, "answer_type")
    if kind == FLOAT:
        kind = f"{FLOAT} {_places(row, query)}"
    if kind not in _SENTENCES:
        raise ValueError(f"{kind!r} is none of MathVista's kinds {list(_SENTENCES)}.")
    choices = cells.options(row, "choices") if kind == CHOICE else ()
    # A query has its unit in it.
    unit = None if query else cells.optional(row, "unit")
    question = query["question"] if query else cells.text(row, "question")
    lines = [
        question if unit is None else f"{question} (Unit: {unit})",
        prompts.lines_of_options(choices),
        _SENTENCES[kind],
    ]
    return Question(
        id=cells.optional(row, "pid", "index") or str(number),
        prompt="\n".join(line for line in lines if line).strip(),
        references=(cells.text(row, "answer"),),
        category=cells.text(row, "answer_type"),
        choices=choices,
        kind=kind,
    )


def _places(row: cells.Row, query: re.Match[str] | None) -> int:
    """Returns the decimal places of an answer."""
    if not cells.is_missing(row.get("precision")):
        return int(float(cells.text(row, "precision")))
    found = [n for said, n in _PLACES.items() if query and said in query["hint"]]
    if len(found) != 1:
        raise ValueError(
            "neither precision nor its query says how many decimal places."
        )
    return found[0]


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
    tsv="MathVista_MINI",
    tsv_columns=(
        *("index", "question", "question_type", "answer_type", "choices", "answer"),
        "image",
    ),
    pictures=("decoded_image",),
    read=_read,
    score=_score,
    figures=lambda categories: [mean("accuracy_rules")],
    metric="accuracy_rules",
    new_tokens=128,
    count=1000,
)
