"""The curve of a run, from the numbers that it writes while it trains."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.evals.report import style
from visor_jax.training.metrics import METRICS
from visor_jax.training.run_record import CONFIG

_BY_BUDGET = "accuracy/"


def training_curve(workdir: str | os.PathLike[str]) -> Figure:
    """Returns loss and accuracy against the step, as far as the run has got.

    Accuracy is that of training answers, of all budgets and of the smallest and the
    largest among them; a run without budgets has one line. Empty before the first
    numbers.
    """
    rows, total = read_metrics(workdir), _steps(workdir)
    drawing = style.figure(9.0, 3.0)
    left, right = drawing.subplots(1, 2)
    drawing.subplots_adjust(left=0.07, right=0.985, top=0.86, bottom=0.17, wspace=0.16)
    for axes, title in ((left, "loss"), (right, "answers right, %")):
        style.plain_axes(axes)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.set_xlim(0, total or None)
    right.set_ylim(0, 102)
    _line(left, rows, "loss", style.INK, "all budgets")
    _line(right, rows, "accuracy", style.INK, "all budgets", scale=100)
    names = _budgets(rows)
    if len(names) > 1:
        for name, colour in ((names[0], style.ORANGE), (names[-1], style.BLUE)):
            _line(right, rows, _BY_BUDGET + name, colour, name, scale=100)
        right.legend(frameon=False, fontsize=8, loc="lower right")
    return drawing


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, without one that is being written."""
    file = Path(workdir) / METRICS
    if not file.exists():
        return []
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _steps(workdir: str | os.PathLike[str]) -> int:
    file = Path(workdir) / CONFIG
    if not file.exists():
        return 0
    return json.loads(file.read_text(encoding="utf-8"))["config"]["loop"]["steps"]


def _budgets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the budgets that were trained so far, fewest layers first."""
    names = {key for row in rows for key in row if key.startswith(_BY_BUDGET)}
    short = {name.removeprefix(_BY_BUDGET) for name in names}
    return sorted(short, key=lambda name: (name.count(","), name))


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    colour: str,
    label: str,
    *,
    scale: float = 1.0,
) -> None:
    # "nan" and "inf" are written as words, and a budget has not been drawn every time.
    known = [row for row in rows if isinstance(row.get(key), int | float)]
    x = [row["step"] for row in known]
    y = [scale * row[key] for row in known]
    axes.plot(x, y, ".-", color=colour, linewidth=1.4, markersize=3, label=label)
