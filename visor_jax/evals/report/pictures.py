"""Two pictures of a report's rows: accuracy against FLOPs, and accuracy per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.evals.report import style
from visor_jax.evals.report.tables import budget_name, model_name

ACCURACY_VS_FLOPS = "accuracy_vs_flops.png"
TASKS_BY_BUDGET = "tasks_by_budget.png"

Row = Mapping[str, Any]
_LABEL_SIZE = 8.5
_LEGEND = {
    "universal": "universal, a point per budget",
    "dedicated": "dedicated to one budget",
    "dense": "dense",
    "stage": "a stage before universal training",
    "policy": "a budget per question",
}


def accuracy_vs_flops(rows: Sequence[Row], file: Path) -> None:
    """Draws every group's accuracy against relative LLM FLOPs, the last one largest."""
    groups = list(rows[0]["accuracy"])
    *above, last = groups
    drawing = style.figure(8.4, 6.4)
    panels = drawing.subplots(
        len(groups), 1, sharex=True, squeeze=False, height_ratios=[1] * len(above) + [3]
    )[:, 0]
    drawing.subplots_adjust(left=0.085, right=0.98, top=0.86, bottom=0.09, hspace=0.12)
    for axes, group in zip(panels, groups, strict=True):
        style.plain_axes(axes)
        _points(axes, rows, group)
        universal = [r for r in rows if model_name(r) == "universal"]
        _pareto_line(axes, universal, group)
        axes.set_ylabel(f"{group}, % right", fontsize=10)
        axes.set_ylim(*_limits(rows, group, least=20.0 if group == last else 6.0))
    lowest = panels[-1]
    lowest.set_xlim(0, 108)
    lowest.set_xlabel("LLM prefill FLOPs, % of the dense network", fontsize=10)
    # On either side, where there is room for each.
    _labels(lowest, [r for r in rows if model_name(r) != "policy"], last, side=1)
    _labels(lowest, [r for r in rows if model_name(r) == "policy"], last, side=-1)
    _title_and_legend(drawing, lowest)
    style.save(drawing, file)


def _title_and_legend(drawing: Figure, axes: Axes) -> None:
    title = {"fontsize": 13, "weight": "bold"}
    drawing.text(0.085, 0.955, "Accuracy against LLM FLOPs", **title)
    note = {"fontsize": 8.5, "color": style.GREY, "ha": "right"}
    drawing.text(0.98, 0.957, "bars: 95 % intervals, as in the table", **note)
    handles, names = axes.get_legend_handles_labels()
    drawing.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0.072, 0.945),
        ncols=len(names),
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handletextpad=0.4,
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


def _labels(axes: Axes, rows: Sequence[Row], group: str, *, side: int) -> None:
    """Names every point, moved up or down where names would overlap.

    Points of similar cost share a column of labels; in it, labels keep their order and
    a minimal distance, and a thin line leads to each. Labels of universal points stand
    a little lower, below the line that ascends from there.

    Args:
      side: 1 for the right of the points, -1 for the left.
    """
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    distance = (high - low) * 1.25 * _LABEL_SIZE / height
    for column in _columns(rows):
        column = sorted(column, key=lambda r: r["accuracy"][group])
        wanted = [100 * row["accuracy"][group] for row in column]
        below = [0.8 * distance * (model_name(row) == "universal") for row in column]
        ascending = np.maximum.accumulate(np.subtract(wanted, below)).tolist()
        placed = _spread_out(ascending, distance, low + distance / 2, high)
        x_label = max(side * _relative(row) for row in column) * side + 2.2 * side
        for row, y, y_label in zip(column, wanted, placed, strict=True):
            colour = style.MODEL_MARKS[model_name(row)][0]
            axes.annotate(
                "dense" if model_name(row) == "dense" else budget_name(row),
                (_relative(row), y),
                (x_label, y_label),
                fontsize=_LABEL_SIZE,
                color=style.LABEL_COLOURS[model_name(row)],
                va="center",
                ha="left" if side > 0 else "right",
                zorder=4,
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour,
                    "linewidth": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 4,
                },
                bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"},
            )


def _columns(rows: Sequence[Row], width: float = 3.0) -> list[list[Row]]:
    """Returns the rows in groups of similar relative FLOPs (per cent)."""
    columns: list[list[Row]] = []
    for row in sorted(rows, key=_relative):
        if columns and _relative(row) - _relative(columns[-1][0]) < width:
            columns[-1].append(row)
        else:
            columns.append([row])
    return columns


def _spread_out(
    wanted: Sequence[float], distance: float, low: float, high: float
) -> list[float]:
    """Returns ascending places at least `distance` apart, near the wanted ones."""
    clusters: list[list[float]] = []
    for place in wanted:
        clusters.append([place])
        # Labels that touch become one cluster around the mean of what they wanted.
        while len(clusters) > 1 and _reach(clusters[-2], distance, low, high)[1] > (
            _reach(clusters[-1], distance, low, high)[0] - distance
        ):
            last = clusters.pop()
            clusters[-1] += last
    placed: list[float] = []
    for cluster in clusters:
        start = _reach(cluster, distance, low, high)[0]
        placed += [start + i * distance for i in range(len(cluster))]
    return placed


def _reach(
    cluster: list[float], distance: float, low: float, high: float
) -> tuple[float, float]:
    length = (len(cluster) - 1) * distance
    start = min(max(np.mean(cluster) - length / 2, low), high - length)
    return start, start + length


def tasks_by_budget(
    rows: Sequence[Row], groups: Mapping[str, Sequence[str]], file: Path
) -> None:
    """Draws a heat map: one row per model and budget, one column per task."""
    names = [task for group in groups.values() for task in group]
    values = np.array([[100 * row["tasks"][n] for n in names] for row in rows])
    drawing = style.figure(0.72 * len(names) + 3.1, 0.36 * len(rows) + 1.75)
    axes = drawing.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        colour = "white" if value < 50 else "black"
        text = f"{value:.1f}" if value < 99.95 else "100"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    labels = [f"{model_name(row)}  {budget_name(row)}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    _dividers(axes, rows, groups)
    bar = drawing.colorbar(image, ax=axes, pad=0.015, fraction=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    axes.set_title(
        "Questions answered right, %", fontsize=12, weight="bold", loc="left", pad=34
    )
    drawing.tight_layout()
    style.save(drawing, file)


def _dividers(
    axes: Axes, rows: Sequence[Row], groups: Mapping[str, Sequence[str]]
) -> None:
    """Separates groups of tasks, which it names, and models."""
    start = 0
    for group, names in groups.items():
        middle = start + (len(names) - 1) / 2
        axes.annotate(
            group,
            (middle, 1),
            (0, 20),
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
