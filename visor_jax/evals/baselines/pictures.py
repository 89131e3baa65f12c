"""Accuracy against FLOPs, and against measured time."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from visor_jax.evals.baselines.conditions import COMBINED, DENSE, TRAINED, VISOR
from visor_jax.evals.baselines.marks import LEGEND, MARKS
from visor_jax.evals.baselines.rows import Row, cost_of
from visor_jax.evals.report import style
from visor_jax.evals.report.labels import Label, place_labels

ACCURACY_VS_FLOPS = "accuracy_vs_flops.png"
ACCURACY_VS_TIME = "accuracy_vs_time.png"

_AXES = {
    "llm": "LLM prefill FLOPs, % of dense",
    "end_to_end": "end-to-end FLOPs, % of dense, choosing included",
    "ms1": "ms per image, batch of 1",
    "ms32": "ms per image, batch of 32",
}


def accuracy_vs_flops(rows: Sequence[Row]) -> Figure:
    """Returns every group's accuracy against LLM and against end-to-end FLOPs."""
    return _figure(rows, ("llm", "end_to_end"), "Accuracy against FLOPs")


def accuracy_vs_time(rows: Sequence[Row]) -> Figure:
    """Returns every group's accuracy against the time at both sizes of batches."""
    sizes = [f"ms{size}" for size in rows[0]["ms"]]
    return _figure(rows, sizes, "Accuracy against measured time")


def _figure(rows: Sequence[Row], measures: Sequence[str], title: str) -> Figure:
    groups = list(rows[0]["accuracy"])
    height = 1.2 + 3.6 * len(groups)
    drawing = style.figure(12.5, height)
    panels = drawing.subplots(
        len(groups), len(measures), sharex="col", sharey="row", squeeze=False
    )
    drawing.subplots_adjust(
        left=0.06,
        right=0.985,
        top=1 - 1.05 / height,
        bottom=0.55 / height,
        hspace=0.08,
        wspace=0.06,
    )
    for line, group in zip(panels, groups, strict=True):
        for axes, measure in zip(line, measures, strict=True):
            _panel(axes, rows, measure, group)
        line[0].set_ylabel(f"{group}, % right", fontsize=10)
    for axes, measure in zip(panels[-1], measures, strict=True):
        axes.set_xlabel(_AXES.get(measure, measure), fontsize=10)
    # Once all limits stand.
    for line, group in zip(panels, groups, strict=True):
        for axes, measure in zip(line, measures, strict=True):
            place_labels(axes, _labels(rows, measure, group))
    top = 1 - 0.28 / height
    drawing.text(0.06, top, title, fontsize=13, weight="bold", va="center")
    note = "bars: 95 % intervals; costs on a logarithmic axis"
    small = {"fontsize": 8.5, "color": style.GREY, "ha": "right", "va": "center"}
    drawing.text(0.985, top, note, **small)
    handles, names = _entries(panels[0][0])
    drawing.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0.05, 1 - 0.42 / height),
        ncols=4,
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handletextpad=0.4,
        borderpad=0.2,
    )
    return drawing


def _panel(axes: Axes, rows: Sequence[Row], measure: str, group: str) -> None:
    style.plain_axes(axes)
    for kind, (colour, marker, size, line) in MARKS.items():
        for series in _series(rows, kind):
            points = sorted(series, key=lambda row: cost_of(row, measure))
            x = [cost_of(row, measure) for row in points]
            y = [100 * row["accuracy"][group] for row in points]
            ends = [[100 * e for e in row["intervals"][group]] for row in points]
            bars = [
                [v - low for v, (low, _) in zip(y, ends, strict=True)],
                [high - v for v, (_, high) in zip(y, ends, strict=True)],
            ]
            bars = [[max(0.0, b) for b in side] for side in bars]
            is_ours = kind in (VISOR, DENSE)
            axes.errorbar(
                x,
                y,
                bars,
                fmt="none",
                ecolor=colour,
                alpha=0.6 if is_ours else 0.25,
                linewidth=1.0,
            )
            if _has_budgets(points[0]):
                width = 1.8 if kind == VISOR else 0.9
                _front(axes, points, measure, group, color=colour, linewidth=width)
            elif line:
                axes.plot(x, y, line, color=colour, linewidth=0.9, alpha=0.55)
            axes.scatter(
                x, y, size, color=colour, marker=marker, zorder=3, label=LEGEND[kind]
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _has_budgets(row: Row) -> bool:
    """Returns whether it is one of a network's budgets, of which few are worth it."""
    return row["kind"] == VISOR or (row["kind"] == COMBINED and bool(row["label"]))


def _front(
    axes: Axes, rows: Sequence[Row], measure: str, group: str, **line: Any
) -> None:
    """Joins the budgets that no cheaper one equals."""
    best, front = -1.0, []
    for row in sorted(rows, key=lambda r: (cost_of(r, measure), -r["accuracy"][group])):
        if row["accuracy"][group] > best:
            best = row["accuracy"][group]
            front.append((cost_of(row, measure), 100 * best))
    axes.plot(*zip(*front, strict=True), **line)


def _series(rows: Sequence[Row], kind: str) -> list[list[Row]]:
    """Returns the rows that a line joins: a network's budgets, or a method's, with one
    budget of VISOR.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            budget = "" if _has_budgets(row) else row["budget"]
            key = row["network"], row["reduce"].partition(":")[0], budget
            found.setdefault(key, []).append(row)
    return list(found.values())


def _labels(rows: Sequence[Row], measure: str, group: str) -> list[Label]:
    """Returns names of VISOR's budgets, then of each line at its cheapest point."""
    labels = []
    for kind in reversed(MARKS):
        colour = MARKS[kind][0]
        for series in _series(rows, kind):
            named = series
            if kind not in (VISOR, DENSE):
                named = [min(series, key=lambda row: cost_of(row, measure))]
            for row in named:
                labels.append(
                    Label(
                        name=_name(row),
                        x=cost_of(row, measure),
                        y=100 * row["accuracy"][group],
                        colour=style.INK if kind in (VISOR, DENSE) else colour,
                        line_colour=colour,
                        side=-1 if kind == VISOR else 1,
                    )
                )
    return labels


def _name(row: Row) -> str:
    method = row["reduce"].partition(":")[0]
    if row["kind"] in (TRAINED, COMBINED):
        network = "VISOR" if _has_budgets(row) else row["budget"]
        own = f"{network} + " if row["kind"] == COMBINED else ""
        return f"{own}{method}" + (", trained" if row["label"] else "")
    return (
        row["budget"]
        if row["network"] != DENSE
        else (DENSE if row["kind"] == DENSE else method)
    )


def _entries(axes: Axes) -> tuple[list[object], list[str]]:
    """Returns each kind once, in the order of the legend."""
    handles, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    shown = [name for name in LEGEND.values() if name in by_name]
    return [by_name[name] for name in shown], shown
