"""What figures are drawn with: lines over layers, matrices; a column a benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visor_jax.evals.predictions import ALL
from visor_jax.evals.report import style
from visor_jax.evals.report.tables import budget_name

Contents = Mapping[str, Mapping[str, Any]]
_WIDTH, _HEIGHT = 3.4, 1.9
_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.GREY)
_MARKS = ("o", "s", "^", "v", "D")
_SHORT = {"cross": "C", "self": "S", "read": "R", "text": "T", "off": "-"}
_WAYS = "layers: S both streams, R text reads the image, C adapter, T text, - off"
# Kinds that are drawn as lines of their own.
_MOST_KINDS = 5


def lines_by_layer(
    title: str,
    contents: Contents,
    rows: Sequence[tuple[str, str]],
    *,
    marks: bool = False,
    log: bool = False,
) -> Figure:
    """Returns lines over layers with 95 % bands, a row a measure, a line a kind.

    Args:
      rows: (what it is, its key in the content: means by kind).
      log: whether values above 0 span powers of ten; others are not drawn then.
    """
    drawing, panels = _panels(title, contents, len(rows))
    for column, (name, content) in enumerate(contents.items()):
        panels[0, column].set_title(name, fontsize=10)
        for row, (label, key) in enumerate(rows):
            axes = panels[row, column]
            for kind, colour, mark in kinds_drawn(content[key]):
                line = {"label": kind, "color": colour, "marker": mark if marks else ""}
                _line(axes, content[key][kind], line, log)
            # Nothing above 0 has no place among powers of ten.
            if not log:
                axes.set_ylim(bottom=0)
            elif any(len(line.get_xdata()) for line in axes.lines):
                axes.set_yscale("log")
            if column == 0:
                axes.set_ylabel(label, fontsize=8.5)
        _layer_names(panels[-1, column], content["layers"])
        panels[0, column].legend(frameon=False, fontsize=8)
    drawing.tight_layout(rect=(0, 0.02, 1, 0.98))
    return drawing


def kinds_drawn(means: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, colour, mark): all, and groups or kinds if they are few.

    Kinds follow groups: "all" alone has neither, and where there are many kinds the
    first two beside it are the groups.
    """
    names = [name for name in means if name != ALL]
    if len(names) > _MOST_KINDS:
        whole = means[ALL]["questions"]
        parts, groups = 0, []
        for name in names:
            if parts >= whole:
                break
            groups.append(name)
            parts += means[name]["questions"]
        names = groups if len(groups) <= _MOST_KINDS else []
    chosen = names or [ALL]
    for place, name in enumerate(chosen):
        yield name, _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]


def _line(
    axes: Axes, means: Mapping[str, Any], line: dict[str, str], log: bool
) -> None:
    mean, low, high = (_numbers(means[key]) for key in ("mean", "low", "high"))
    shown = mean > 0 if log else np.isfinite(mean)
    if not shown.any():
        axes.plot([], [], **line)
        return
    layers = np.arange(len(mean))
    mean = np.where(shown, mean, np.nan)
    axes.plot(layers, mean, linewidth=1.4, markersize=4, **line)
    low = np.where(low > 0, low, mean) if log else low
    ends = {"color": line["color"], "alpha": 0.18, "linewidth": 0}
    axes.fill_between(layers, low, high, where=shown & np.isfinite(low), **ends)


def drops_by_layer(title: str, contents: Contents, spans: Sequence[str]) -> Figure:
    """Returns the scores without the image, a row a span, a line a kind and mode."""
    names = {"one": "in one layer", "from": "in it and all behind"}
    styles = {"frozen": ":", "unseen": "--", "both": "-"}
    drawing, panels = _panels(title, contents, len(spans))
    for column, (name, content) in enumerate(contents.items()):
        panels[0, column].set_title(name, fontsize=10)
        for row, span in enumerate(spans):
            axes = panels[row, column]
            for kind, colour, _ in kinds_drawn(content["full"]):
                (full,) = content["full"][kind]["mean"]
                axes.axhline(100 * full, color=colour, linewidth=0.8, alpha=0.5)
                for mode, dashes in styles.items():
                    values = 100 * _numbers(content[span][mode][kind]["mean"])
                    label = f"{kind}, {mode}" if row == 0 else None
                    how = {"color": colour, "linestyle": dashes, "label": label}
                    axes.plot(values, marker=".", linewidth=1.2, **how)
            axes.set_ylim(0, 103)
            if column == 0:
                axes.set_ylabel(f"score, %\n{names[span]}", fontsize=8.5)
        _layer_names(panels[-1, column], content["layers"])
        panels[0, column].legend(frameon=False, fontsize=6.5, ncols=2)
    drawing.tight_layout(rect=(0, 0.02, 1, 0.98))
    return drawing


def matrices(
    title: str,
    panels: Mapping[str, Float[np.ndarray, "S S"]],
    *,
    names: Mapping[str, Sequence[str]],
) -> Figure:
    """Returns a heat map of 0..1 for each benchmark, its least value beside its name.

    Args:
      names: of the layers, whose letters stand at both sides.
    """
    drawing = style.figure(_WIDTH * len(panels) + 0.6, _WIDTH + 0.4)
    drawing.suptitle(title, fontsize=12, weight="bold", x=0.01, ha="left")
    found = drawing.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, values) in zip(found, panels.items(), strict=True):
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
        least = np.nanmin(values) if np.isfinite(values).any() else np.nan
        axes.set_title(f"{name}, least {least:.2f}", fontsize=10)
        _layer_names(axes, names[name])
        axes.set_yticks(axes.get_xticks(), axes.get_xticklabels(), fontsize=7)
        drawing.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    drawing.tight_layout(rect=(0, 0.02, 1, 0.98))
    return drawing


def budget_maps(title: str, contents: Contents) -> Figure:
    """Returns kinds by budgets, and below them the score against FLOPs and time."""
    kinds = max(len(content["score"]) for content in contents.values())
    most = max(len(content["budgets"]) for content in contents.values())
    width = max(_WIDTH, 0.62 * most + 1.6) * len(contents)
    drawing = style.figure(width + 0.8, 0.3 * (kinds + 3) + 3.4)
    drawing.suptitle(title, fontsize=12, weight="bold", x=0.01, ha="left")
    heights = {"height_ratios": [0.3 * (kinds + 3), 2.0]}
    panels = drawing.subplots(2, len(contents), squeeze=False, **heights)
    for column, (name, content) in enumerate(contents.items()):
        _budget_map(panels[0, column], name, content)
        _score_against(panels[1, column], content)
    drawing.tight_layout(rect=(0, 0, 1, 0.98))
    return drawing


def _budget_map(axes: Axes, name: str, content: Mapping[str, Any]) -> None:
    kinds, budgets = list(content["score"]), content["budgets"]
    values = np.array([_numbers(content["minus_full"][k]["mean"]) for k in kinds])
    scores = np.array([_numbers(content["score"][k]["mean"]) for k in kinds])
    most = max(0.01, float(np.nanmax(np.abs(values), initial=0)))
    axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for (y, x), value in np.ndenumerate(scores):
        dark = abs(values[y, x]) > 0.6 * most
        text = {"ha": "center", "va": "center", "fontsize": 7}
        axes.text(x, y, f"{100 * value:.0f}", color="w" if dark else "k", **text)
    extra = {"cheapest right": content["cheapest_right"][ALL]}
    if content["auto"] is not None:
        extra["auto chooses"] = content["auto"][ALL]
    for place, shares in enumerate(extra.values()):
        for x, budget in enumerate(budgets):
            share = f"{100 * shares.get(budget, 0):.0f} %"
            axes.text(
                x, len(kinds) + place, share, ha="center", va="center", fontsize=7
            )
    axes.set_ylim(len(kinds) + len(extra) - 0.5, -0.5)
    axes.set_yticks(range(len(kinds) + len(extra)), [*kinds, *extra], fontsize=7.5)
    names = [budget_name({"budget": budget}) for budget in budgets]
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{name}: score, %; colour: minus full", fontsize=9)


def _score_against(axes: Axes, content: Mapping[str, Any]) -> None:
    """Draws the scores against FLOPs (marks, lines) and time (hollow, upper axis)."""
    style.plain_axes(axes)
    flops, above = _numbers(content["llm_prefill_flops"]) / 1e6, axes.twiny()
    times = _numbers(content["ms"])
    for kind, colour, mark in kinds_drawn(content["score"]):
        score = 100 * _numbers(content["score"][kind]["mean"])
        how = {"color": colour, "marker": mark, "markersize": 4}
        axes.plot(flops, score, linestyle="", label=kind, **how)
        above.plot(times, score, linestyle="", fillstyle="none", **how)
    axes.set_xlabel("LLM prefill, MFLOP (filled)", fontsize=8)
    above.set_xlabel("ms a prompt (hollow)", fontsize=8)
    above.tick_params(labelsize=7)
    axes.set_ylabel("score, %", fontsize=8.5)
    axes.legend(frameon=False, fontsize=7)


def _panels(title: str, contents: Contents, rows: int) -> tuple[Figure, np.ndarray]:
    columns = len(contents)
    drawing = style.figure(_WIDTH * columns + 0.8, _HEIGHT * rows + 0.8)
    drawing.suptitle(title, fontsize=12, weight="bold", x=0.01, ha="left")
    drawing.text(0.99, 0.005, _WAYS, fontsize=6.5, color=style.GREY, ha="right")
    panels = drawing.subplots(rows, columns, squeeze=False, sharex="col")
    for axes in panels.flat:
        style.plain_axes(axes)
    return drawing, panels


def _layer_names(axes: Axes, ways: Sequence[str]) -> None:
    names = [f"{i}\n{_SHORT.get(way, way)}" for i, way in enumerate(ways)]
    axes.set_xticks(range(len(ways)), names, fontsize=7)


def _numbers(values: Sequence[float | None]) -> Float[np.ndarray, "k"]:
    return np.array([np.nan if value is None else value for value in values], float)
