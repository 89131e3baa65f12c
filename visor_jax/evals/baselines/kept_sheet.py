"""A sheet of some images: which tokens each method kept, and what was answered.

Dropped patches are pale. Methods that go by the question are shown for the one in bold;
the answers are to all questions of the last group of tasks. The images are the first of
the benchmark: nothing is picked.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.data.images.read_image import read_image
from visor_jax.evals.baselines.conditions import DENSE, Condition
from visor_jax.evals.baselines.measure import asked_of, shown_examples
from visor_jax.evals.baselines.outcome import Outcome
from visor_jax.evals.benchmark import Benchmark, Example
from visor_jax.evals.report import style
from visor_jax.evals.report.examples import question_of, shortened
from visor_jax.token_reduction.registry import NONE

KEPT_TOKENS = "kept_tokens.png"

# Inches.
_IMAGE, _ANSWERS, _NAME, _GAP, _MARGIN, _LINE = 1.15, 1.0, 2.1, 0.14, 0.2, 0.155
# Of what is left of a dropped patch; letters that have room.
_PALE, _LONGEST, _ANSWER = 0.14, 34, 12


def draw(
    shown: Sequence[tuple[Condition, Outcome]], benchmark: Benchmark, tokens: int
) -> Figure | None:
    """Returns the sheet, a line for each condition; None if there is nothing to show.

    tokens: of an image. Nothing is shown of images whose tokens are no square of
    patches (several crops).
    """
    side = math.isqrt(tokens)
    if not shown or side * side != tokens:
        return None
    about = [_asked(benchmark, each) for each in shown_examples(benchmark)]
    header = 0.75 + _LINE * max(map(len, about))
    column = _IMAGE + _ANSWERS + _GAP
    width = 2 * _MARGIN + _NAME + len(about) * column
    height = header + len(shown) * (_IMAGE + _GAP) + _MARGIN
    drawing = style.figure(width, height)
    canvas = drawing.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, width), ylim=(height, 0))
    canvas.axis("off")
    _header(canvas, about, benchmark, column)
    for line, (condition, outcome) in enumerate(shown):
        top = header + line * (_IMAGE + _GAP)
        canvas.text(_MARGIN, top + 0.1, _wrapped(condition), fontsize=8.5, va="top")
        for place, examples in enumerate(about):
            left = _MARGIN + _NAME + place * column
            box = (left / width, 1 - (top + _IMAGE) / height)
            axes = drawing.add_axes((*box, _IMAGE / width, _IMAGE / height))
            axes.axis("off")
            kept = None if outcome.kept is None else outcome.kept[place]
            pixels = read_image(examples[0].request.images[0])
            axes.imshow(paled(pixels, kept, side), interpolation="nearest")
            _answers(canvas, examples, outcome, left + _IMAGE + 0.06, top)
    return drawing


def paled(pixels: np.ndarray, kept: Sequence[int] | None, side: int) -> np.ndarray:
    """Returns (h, w, 3) pixels in which patches that are not kept are pale.

    kept: indices of patches, row by row; None for all. side: patches of a row.
    """
    if kept is None:
        return pixels
    stays = np.zeros(side * side, bool)
    stays[list(kept)] = True
    down = np.arange(pixels.shape[0]) * side // pixels.shape[0]
    across = np.arange(pixels.shape[1]) * side // pixels.shape[1]
    mask = stays.reshape(side, side)[down][:, across, None]
    pale = 255 - (255 - pixels.astype(np.float32)) * _PALE
    return np.where(mask, pixels, pale).astype(np.uint8)


def _asked(benchmark: Benchmark, about: Sequence[Example]) -> list[Example]:
    """Returns the questions of the last group, the one that methods saw first."""
    first = asked_of(benchmark, about)
    groups = list(benchmark.groups.values())
    last = groups[-1] if groups else {each.task for each in about}
    return [first, *(e for e in about if e.task in last and e is not first)]


def _header(
    canvas: Axes, about: Sequence[Sequence[Example]], benchmark: Benchmark, step: float
) -> None:
    title = f"Which tokens stay, on the first {benchmark.cluster_name}s"
    canvas.text(_MARGIN, 0.25, title, fontsize=12, weight="bold", va="center")
    note = "bold: the question that methods inside the decoder were shown with"
    canvas.text(_MARGIN, 0.48, note, fontsize=8, color=style.GREY, va="center")
    for place, examples in enumerate(about):
        left = _MARGIN + _NAME + place * step
        for line, example in enumerate(examples):
            text = f"{question_of(example)}: {example.references[0]}"
            question = shortened(text, _LONGEST)
            weight = "bold" if line == 0 else "normal"
            y = 0.72 + line * _LINE
            canvas.text(left, y, question, fontsize=7.5, weight=weight, va="center")


def _answers(
    canvas: Axes, examples: Sequence[Example], outcome: Outcome, left: float, top: float
) -> None:
    for line, example in enumerate(examples):
        text, right = outcome.answers[example.id]
        mark, colour = ("✓", style.GREEN) if right else ("✗", style.RED)
        y = top + 0.1 + line * _LINE
        text = f"{mark} {shortened(text, _ANSWER)}"
        canvas.text(left, y, text, fontsize=7.5, color=colour, va="center")


def _wrapped(condition: Condition) -> str:
    """Returns the condition's name, a part in each line."""
    own = "" if condition.network == DENSE else f"VISOR {condition.budget.name}"
    if condition.reduce == NONE:
        return own or DENSE
    method, _, settings = condition.reduce.partition(":")
    plus = f"{own}\n+ " if own else ""
    return "\n".join([plus + method, *settings.split(",")])
