"""Two pictures of a report's rows: accuracy against FLOPs, and accuracy per task."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.evals.report import style
from visor_jax.evals.report.labels import Label, place_labels
from visor_jax.evals.report.tables import budget_name, model_name

ACCURACY_VS_FLOPS = "accuracy_vs_flops.png"
TASKS_BY_BUDGET = "tasks_by_budget.png"

Row = Mapping[str, Any]
# Entries of the legend beside each other, and inches of a line of them.
_LEGEND_COLUMNS, _LEGEND_LINE = 3, 0.23
# More names and their lines would hide the points.
_MOST_NAMES = 36
# Letters of a group's name in a line, as high as its panel.
_GROUP_LENGTH = 14
# Letters of a task's name that fit above its column.
_TASK_LENGTH = 9
_LEGEND = {
    "universal": "universal, a point per budget",
    "dedicated": "dedicated to one budget",
    "dense": "dense",
    "untrained": "dense, at budgets it was not trained for",
    "stage": "a stage before universal training",
    "policy": "a budget per question",
}


def accuracy_vs_flops(rows: Sequence[Row]) -> Figure:
    """Returns every group's accuracy against relative LLM FLOPs, the last one largest.

    Points without room for a name (of very many budgets) are counted below the title.
    """
    groups = list(rows[0]["accuracy"])
    *above, last = groups
    kinds = {model_name(row) for row in rows}
    # One entry a kind, and the line.
    lines = -(-(len(kinds) + 1) // _LEGEND_COLUMNS)
    height = 5.0 + 1.1 * len(above) + _LEGEND_LINE * lines
    drawing = style.figure(8.4, height)
    panels = drawing.subplots(
        len(groups), 1, sharex=True, squeeze=False, height_ratios=[1] * len(above) + [3]
    )[:, 0]
    drawing.subplots_adjust(
        left=0.105,
        right=0.98,
        top=1 - (0.6 + _LEGEND_LINE * lines) / height,
        bottom=0.58 / height,
        hspace=0.12,
    )
    for axes, group in zip(panels, groups, strict=True):
        style.plain_axes(axes)
        _points(axes, rows, group)
        universal = [r for r in rows if model_name(r) == "universal"]
        _pareto_line(axes, universal, group)
        name = "\n".join(textwrap.wrap(group, _GROUP_LENGTH))
        axes.set_ylabel(f"{name}\n% right", fontsize=10)
        axes.set_ylim(*_limits(rows, group, least=20.0 if group == last else 6.0))
    lowest = panels[-1]
    lowest.set_xlim(0, 108)
    lowest.set_xlabel("LLM prefill FLOPs, % of the dense network", fontsize=10)
    named = _label_order(rows, last)[:_MOST_NAMES]
    left_out = len(rows) - len(named)
    left_out += place_labels(lowest, [_label(row, last) for row in named])
    _title_and_legend(drawing, lowest, height, left_out)
    return drawing


def _title_and_legend(
    drawing: Figure, axes: Axes, height: float, left_out: int
) -> None:
    """Writes what stands above the panels; height: of the picture, in inches."""
    top = 1 - 0.3 / height
    title = {"fontsize": 13, "weight": "bold", "va": "center"}
    drawing.text(0.085, top, "Accuracy against LLM FLOPs", **title)
    note = "bars: 95 % intervals, as in the table"
    if left_out:
        note += f"; {left_out} points without a name"
    small = {"fontsize": 8.5, "color": style.GREY, "ha": "right", "va": "center"}
    drawing.text(0.98, top, note, **small)
    handles, names = axes.get_legend_handles_labels()
    drawing.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0.072, 1 - 0.45 / height),
        ncols=min(len(names), _LEGEND_COLUMNS),
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handletextpad=0.4,
        borderpad=0.2,
    )


def _relative(row: Row, group: str | None = None) -> float:
    """Returns the LLM FLOPs of a group's questions, % of the dense network's.

    Args:
      group: None for the last one.
    """
    if "by_group" not in row:
        return 100 / row["llm_saving"]
    group = list(row["by_group"])[-1] if group is None else group
    dense = row["flops"]["llm_prefill"] * row["llm_saving"]
    return 100 * row["by_group"][group]["llm_prefill"] / dense


def _points(axes: Axes, rows: Sequence[Row], group: str) -> None:
    for kind, (colour, marker, size) in style.MODEL_MARKS.items():
        mine = [row for row in rows if model_name(row) == kind]
        if not mine:
            continue
        x = [_relative(row, group) for row in mine]
        y = np.array([100 * row["accuracy"][group] for row in mine])
        ends = 100 * np.array([row["intervals"][group] for row in mine]).T
        bars = np.abs(ends - y)
        axes.errorbar(x, y, bars, fmt="none", ecolor=colour, alpha=0.55, linewidth=1.2)
        # Hollow, so that a universal point behind it shows.
        inside = "none" if kind == "dedicated" else colour
        axes.scatter(
            x,
            y,
            size,
            facecolor=inside,
            edgecolor=colour,
            linewidth=1.8 if kind == "dedicated" else 0,
            marker=marker,
            zorder=3,
            label=_LEGEND[kind],
        )


def _pareto_line(axes: Axes, rows: Sequence[Row], group: str) -> None:
    """Joins the universal budgets that no cheaper one equals."""
    best, front = -1.0, []
    for row in sorted(rows, key=lambda r: (_relative(r), -r["accuracy"][group])):
        if row["accuracy"][group] > best:
            best = row["accuracy"][group]
            front.append((_relative(row), 100 * best))
    if front:
        x, y = zip(*front, strict=True)
        label = "best budget for its cost"
        axes.plot(x, y, color=style.BLUE, linewidth=1.6, alpha=0.8, label=label)


def _limits(rows: Sequence[Row], group: str, least: float) -> tuple[float, float]:
    """Returns y limits that hold all intervals and span at least `least` points."""
    ends = 100 * np.array([row["intervals"][group] for row in rows])
    low, high = ends.min(), ends.max()
    pad = max(0.06 * (high - low), (least - (high - low)) / 2, 0.8)
    return max(low - pad, -2.0), min(high + pad, 100.9)


def _label_order(rows: Sequence[Row], group: str) -> list[Row]:
    """Returns the rows in the order in which they get the best places for names.

    Of universal budgets those come first that no cheaper one equals.
    """
    best, first, then = -1.0, [], []
    for row in sorted(rows, key=lambda r: (_relative(r), -r["accuracy"][group])):
        if model_name(row) == "universal" and row["accuracy"][group] <= best:
            then.append(row)
            continue
        if model_name(row) == "universal":
            best = row["accuracy"][group]
        first.append(row)
    return first + then


def _label(row: Row, group: str) -> Label:
    model = model_name(row)
    return Label(
        name="dense" if model == "dense" else budget_name(row),
        x=_relative(row),
        y=100 * row["accuracy"][group],
        colour=style.LABEL_COLOURS[model],
        line_colour=style.MODEL_MARKS[model][0],
        # On either side, where there is room for each.
        side=-1 if model == "policy" else 1,
        # Below the line that ascends from there.
        lines=0.8 if model == "universal" else 0.0,
    )


def tasks_by_budget(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> Figure:
    """Returns a heat map: one row per model and budget, one column per task."""
    names = [task for group in groups.values() for task in group]
    values = np.array([[100 * row["tasks"][n] for n in names] for row in rows])
    drawing = style.figure(0.72 * len(names) + 3.1, 0.36 * len(rows) + 1.75)
    axes = drawing.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        colour = "white" if value < 50 else "black"
        text = f"{value:.1f}" if value < 99.95 else "100"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5)
    # Long names would meet where they lie side by side.
    lie = max(map(len, names)) <= _TASK_LENGTH
    turned = {} if lie else {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, fontsize=9, **turned)
    labels = [f"{model_name(row)}  {budget_name(row)}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    # Points above the cells that the names of tasks take.
    taken = 20 if lie else 14 + 4.0 * max(map(len, names))
    _dividers(axes, rows, groups, taken)
    bar = drawing.colorbar(image, ax=axes, pad=0.015, fraction=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    axes.set_title(
        "Questions answered right, %",
        fontsize=12,
        weight="bold",
        loc="left",
        pad=taken + 14,
    )
    drawing.tight_layout()
    return drawing


def _dividers(
    axes: Axes, rows: Sequence[Row], groups: Mapping[str, Sequence[str]], above: float
) -> None:
    """Separates groups of tasks, which it names so far above, and models."""
    start = 0
    for group, names in groups.items():
        middle = start + (len(names) - 1) / 2
        axes.annotate(
            group,
            (middle, 1),
            (0, above),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            style="italic",
            color=style.GREY,
        )
        if start:
            axes.axvline(start - 0.5, color="white", linewidth=3)
        start += len(names)
    for y in range(1, len(rows)):
        if model_name(rows[y]) != model_name(rows[y - 1]):
            axes.axhline(y - 0.5, color="white", linewidth=3)
