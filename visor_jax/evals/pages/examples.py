"""A sheet of pages with all their questions and the answer at every budget.

The pages are the first of the evaluation set and all their questions are shown: nothing
is picked.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from visor_jax.evals.harness import BudgetResult
from visor_jax.evals.pages.benchmark import AskedQuestion, EvaluationSet
from visor_jax.evals.report import style
from visor_jax.evals.report.rows import EvaluatedRun
from visor_jax.evals.report.tables import budget_name, model_name

EXAMPLES = "examples.png"
NUM_PAGES = 5

# Inches.
_LINE, _IMAGE, _MARGIN, _GAP, _HEADER = 0.235, 2.35, 0.25, 0.2, 1.0
_QUESTION, _ANSWER, _COLUMN = 2.5, 0.75, 0.68
_MOST_COLUMNS = 14


@dataclasses.dataclass(frozen=True)
class _Column:
    """The answers of one model at one budget: {(page, task): (word, right)}."""

    model: str
    budget: str
    answers: dict[tuple[int, int], tuple[str, bool]]


def draw(
    runs: Sequence[EvaluatedRun],
    evaluation_set: EvaluationSet,
    file: Path,
    *,
    pages: int = NUM_PAGES,
) -> None:
    """Draws the sheet; of several seeds of a model the first one answers."""
    pages = min(pages, len(evaluation_set.pool))
    questions = evaluation_set.questions(pages)
    columns = _columns(runs, evaluation_set, pages)
    left = _MARGIN + _IMAGE + _GAP
    width = left + _QUESTION + _ANSWER + len(columns) * _COLUMN + _MARGIN
    block = max(_IMAGE, len(evaluation_set.task_names) * _LINE) + _GAP
    height = _HEADER + pages * block + _MARGIN
    drawing = style.figure(width, height)
    canvas = drawing.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, width), ylim=(height, 0))
    canvas.axis("off")
    _header(canvas, columns, left)
    for page in range(pages):
        top = _HEADER + page * block
        box = (_MARGIN / width, 1 - (top + _IMAGE) / height)
        picture = drawing.add_axes((*box, _IMAGE / width, _IMAGE / height))
        picture.imshow(evaluation_set.pool.pages[page], interpolation="nearest")
        picture.axis("off")
        _page_lines(canvas, page, questions[page], columns, left, top)
    style.save(drawing, file)


def _columns(
    runs: Sequence[EvaluatedRun], evaluation_set: EvaluationSet, pages: int
) -> list[_Column]:
    """Returns one column per model and budget, thinned out evenly if too many."""
    shown: dict[tuple[str, str], BudgetResult] = {}
    for run in runs:
        for result in run.results:
            shown.setdefault((run.label, result.budget.name), result)
    keys = list(shown)
    if len(keys) > _MOST_COLUMNS:
        kept = np.linspace(0, len(keys) - 1, _MOST_COLUMNS).round().astype(int)
        keys = [keys[i] for i in kept]
    columns: list[_Column] = []
    for label, name in keys:
        answers = shown[label, name].answers
        first = answers.pages < pages
        words = evaluation_set.tokenizer.convert_ids_to_tokens(
            answers.predicted[first].tolist()
        )
        pairs = zip(words, answers.correct[first].tolist(), strict=True)
        where = zip(
            answers.pages[first].tolist(), answers.tasks[first].tolist(), strict=True
        )
        row = {"model": label, "budget": name}
        columns.append(
            _Column(
                model_name(row),
                budget_name(row),
                dict(zip(where, pairs, strict=True)),
            )
        )
    return columns


def _header(canvas: Axes, columns: Sequence[_Column], left: float) -> None:
    canvas.text(
        _MARGIN, 0.38, "Held-out pages", fontsize=13, weight="bold", va="center"
    )
    note = "✓ right   ✗ wrong; not picked: the first pages, every question"
    canvas.text(left, 0.38, note, fontsize=9, color=style.GREY, va="center")
    bottom = _HEADER - 0.14
    bold = {"fontsize": 9, "weight": "bold", "va": "center"}
    canvas.text(left, bottom, "question", **bold)
    canvas.text(left + _QUESTION, bottom, "answer", **bold)
    model = None
    for i, column in enumerate(columns):
        x = _column_centre(left, i)
        name = "all" if column.model == "dense" else column.budget
        canvas.text(x, bottom, name, fontsize=8, ha="center", va="center")
        if column.model != model:
            model = column.model
            same = sum(1 for c in columns[i:] if c.model == model)
            end = x + (same - 1) * _COLUMN
            y = bottom - 0.22
            canvas.text((x + end) / 2, y, model, ha="center", **bold)


def _column_centre(left: float, index: int) -> float:
    return left + _QUESTION + _ANSWER + (index + 0.5) * _COLUMN


def _page_lines(
    canvas: Axes,
    page: int,
    questions: Sequence[AskedQuestion],
    columns: Sequence[_Column],
    left: float,
    top: float,
) -> None:
    right = _column_centre(left, len(columns) - 1) + _COLUMN / 2
    canvas.plot([left, right], [top, top], color=style.GREY, linewidth=0.6)
    for task, question in enumerate(questions):
        y = top + (task + 0.55) * _LINE
        canvas.text(left, y, question.text, fontsize=9, va="center")
        canvas.text(left + _QUESTION, y, question.answer, fontsize=9, va="center")
        for i, column in enumerate(columns):
            word, correct = column.answers[page, task]
            mark, colour = ("✓", style.GREEN) if correct else ("✗", style.RED)
            canvas.text(
                _column_centre(left, i),
                y,
                f"{mark} {word}",
                fontsize=8.5,
                color=colour,
                weight="normal" if correct else "bold",
                ha="center",
                va="center",
            )
