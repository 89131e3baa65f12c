"""A sheet of pictures with all their questions and the answer at every budget.

The pictures are the first of the benchmark and all their questions are shown: nothing
is picked.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.budget import Budget
from visor_jax.data.images.read_image import read_image
from visor_jax.evals.benchmark import Benchmark, Example, clusters_of
from visor_jax.evals.report import style
from visor_jax.evals.report.rows import EvaluatedRun
from visor_jax.evals.report.tables import budget_name, model_name

EXAMPLES = "examples.png"
NUM_CLUSTERS = 5

# Inches.
_LINE, _IMAGE, _MARGIN, _GAP, _HEADER = 0.235, 2.35, 0.25, 0.2, 1.0
_QUESTION, _ANSWER, _COLUMN = 2.5, 0.75, 0.68
_MOST_COLUMNS = 14
# Letters that have room.
_LONGEST_QUESTION, _LONGEST_REFERENCE, _LONGEST_ANSWER = 36, 10, 11


@dataclasses.dataclass(frozen=True)
class _Column:
    """The answers of one model at one budget: {id of the example: (text, right)}."""

    model: str
    budget: str
    answers: Mapping[str, tuple[str, bool]]


def draw(
    runs: Sequence[EvaluatedRun],
    benchmark: Benchmark,
    *,
    clusters: int = NUM_CLUSTERS,
) -> Figure:
    """Returns the sheet; of several seeds of a model the first one answers."""
    shown = clusters_of(benchmark, clusters)
    columns = _columns(runs, [example.id for about in shown for example in about])
    left = _MARGIN + _IMAGE + _GAP
    width = left + _QUESTION + _ANSWER + len(columns) * _COLUMN + _MARGIN
    block = max(_IMAGE, max(map(len, shown)) * _LINE) + _GAP
    height = _HEADER + len(shown) * block + _MARGIN
    drawing = style.figure(width, height)
    canvas = drawing.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, width), ylim=(height, 0))
    canvas.axis("off")
    _header(canvas, columns, left, benchmark.cluster_name)
    for number, examples in enumerate(shown):
        top = _HEADER + number * block
        box = (_MARGIN / width, 1 - (top + _IMAGE) / height)
        picture = drawing.add_axes((*box, _IMAGE / width, _IMAGE / height))
        if examples[0].request.images:
            pixels = read_image(examples[0].request.images[0])
            picture.imshow(pixels, interpolation="nearest")
        picture.axis("off")
        _lines(canvas, examples, columns, left, top)
    return drawing


def _columns(runs: Sequence[EvaluatedRun], ids: Sequence[str]) -> list[_Column]:
    """Returns one column per model and budget, thinned out evenly if too many."""
    shown: dict[tuple[str, Budget], EvaluatedRun] = {}
    for run in runs:
        for budget in run.predictions.budgets:
            shown.setdefault((run.label, budget), run)
    keys = list(shown)
    if len(keys) > _MOST_COLUMNS:
        kept = np.linspace(0, len(keys) - 1, _MOST_COLUMNS).round().astype(int)
        keys = [keys[i] for i in kept]
    columns: list[_Column] = []
    for label, budget in keys:
        found = shown[label, budget].predictions
        row = found.budgets.index(budget)
        indices = [found.ids.index(name) for name in ids]
        right = found.main_scores[row, indices] == 1
        texts = [found.answers[row][i] for i in indices]
        pairs = zip(texts, right.tolist(), strict=True)
        columns.append(
            _Column(
                model_name({"model": label}),
                budget_name({"budget": budget.name}),
                dict(zip(ids, pairs, strict=True)),
            )
        )
    return columns


def _header(
    canvas: Axes, columns: Sequence[_Column], left: float, cluster_name: str
) -> None:
    bold = {"weight": "bold", "va": "center"}
    canvas.text(_MARGIN, 0.38, f"Held-out {cluster_name}s", fontsize=13, **bold)
    note = f"✓ right   ✗ wrong; not picked: the first {cluster_name}s, every question"
    canvas.text(left, 0.38, note, fontsize=9, color=style.GREY, va="center")
    bottom = _HEADER - 0.14
    bold = {"fontsize": 9, **bold}
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


def _lines(
    canvas: Axes,
    examples: Sequence[Example],
    columns: Sequence[_Column],
    left: float,
    top: float,
) -> None:
    """Writes the questions about one picture, a line each."""
    right = _column_centre(left, len(columns) - 1) + _COLUMN / 2
    canvas.plot([left, right], [top, top], color=style.GREY, linewidth=0.6)
    for line, example in enumerate(examples):
        y = top + (line + 0.55) * _LINE
        question = shortened(question_of(example), _LONGEST_QUESTION)
        reference = shortened(example.references[0], _LONGEST_REFERENCE)
        canvas.text(left, y, question, fontsize=9, va="center")
        canvas.text(left + _QUESTION, y, reference, fontsize=9, va="center")
        for i, column in enumerate(columns):
            answer, correct = column.answers[example.id]
            mark, colour = ("✓", style.GREEN) if correct else ("✗", style.RED)
            canvas.text(
                _column_centre(left, i),
                y,
                f"{mark} {shortened(answer, _LONGEST_ANSWER)}",
                fontsize=8.5,
                color=colour,
                weight="normal" if correct else "bold",
                ha="center",
                va="center",
            )


def question_of(example: Example) -> str:
    """Returns the text of the last message."""
    content = example.request.messages()[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def shortened(text: str, length: int) -> str:
    """Returns the text in one line; its end becomes "…" where it is too long."""
    text = " ".join(text.split())
    # A dollar sign would begin a formula.
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")
