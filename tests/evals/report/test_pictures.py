"""What is written in pictures lies inside of them, and no two texts meet."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from visor_jax.evals import calibration
from visor_jax.evals.report import pictures

GROUPS = {"easy": ("ring", "half"), "hard": ("read", "max", "mark")}
LONG_GROUPS = {
    "questions about one page": ("find_the_total_of_a_receipt", "page_number"),
    "questions about charts": ("largest_value_of_a_bar_chart", "trend", "axis_label"),
    "everything else": ("free_form",),
}


def row(model, budget, cost, right, groups=GROUPS):
    """Returns a report's row; cost: share of the dense network's FLOPs."""
    tasks = [task for names in groups.values() for task in names]
    return {
        "model": model,
        "budget": budget,
        "llm_saving": 1 / cost,
        "accuracy": dict.fromkeys(groups, right),
        "intervals": {group: [right - 0.03, min(1, right + 0.02)] for group in groups},
        "tasks": dict.fromkeys(tasks, right),
    }


def budget(*layers):
    return f"sa{len(layers)}:{','.join(map(str, layers))}" if layers else "sa0"


def every_kind(groups=GROUPS):
    long = budget(*range(12))
    return [
        row("universal", "sa0", 0.1, 0.6, groups),
        row("dedicated:sa0", "sa0", 0.1, 0.9, groups),
        row("dense", "all", 1.0, 0.85, groups),
        row("stage:adapters_alone", long, 0.99, 0.84, groups),
        row("policy:straight_through", "auto, cost 5", 0.3, 0.95, groups),
        row("policy:straight_through", "auto", 0.32, 0.951, groups),
        row("policy:straight_through", "random", 0.32, 0.9, groups),
    ]


ladder = [
    row("universal", budget(*range(n)), 0.1 + 0.06 * n, 0.6 + 0.02 * n)
    for n in range(15)
]
alike = [
    row("universal", budget(n, n + 10, n + 20), 0.5, 0.9 + n / 1000) for n in range(12)
]
every = [
    row("universal", budget(*chosen), 0.1 + 0.11 * len(chosen), 0.7 + n / 1500)
    for count in range(9)
    for n, chosen in enumerate(itertools.combinations(range(8), count))
]
CASES = {
    "kinds": every_kind(),
    "alone": [row("universal", "sa0", 0.1, 1.0)],
    "ladder": ladder,
    "alike": alike,
    "all": [*ladder, *alike, *every_kind()],
    "every": every,
    "long": every_kind(LONG_GROUPS),
}


def written(figure):
    """Returns {text: box in pixels} as a list of pairs; of ticks those in view."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen |= {
                label
                for tick in axis.get_major_ticks()
                for label in (tick.label1, tick.label2)
                if not low <= tick.get_loc() <= high
            }
    return [
        (text.get_text(), Text.get_window_extent(text, renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in unseen
    ]


def faults(figure):
    """Returns what is cut off, and which texts meet."""
    texts = written(figure)
    width, height = figure.bbox.size
    found = [
        f"cut off: {text!r}"
        for text, box in texts
        if min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height
    ]
    for (text, a), (other, b) in itertools.combinations(texts, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 1 and down > 1:
            found.append(f"meet: {text!r} and {other!r}")
    return found


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
def test_accuracy_against_flops(rows):
    picture = pictures.accuracy_vs_flops(rows)
    assert faults(picture) == []
    names = [text for text, _ in written(picture)]
    left_out = [n for n in names if "without a name" in n]
    assert bool(left_out) == (rows is every)
    if rows is not every:
        for each in rows:
            shown = each["budget"] if each["model"] != "dense" else "dense"
            assert shown in names or "…" in "".join(names)


@pytest.mark.parametrize("name", ["kinds", "alone", "ladder", "alike", "all"])
def test_tasks_by_budget(name):
    assert faults(pictures.tasks_by_budget(CASES[name], GROUPS)) == []


def test_tasks_with_long_names():
    picture = pictures.tasks_by_budget(CASES["long"], LONG_GROUPS)
    # Boxes of what is turned hold the corners beside it, where other names begin.
    turned = [task for names in LONG_GROUPS.values() for task in names]
    found = [f for f in faults(picture) if sum(task in f for task in turned) < 2]
    assert found == []


@pytest.mark.parametrize("count", [1, 3, 16])
def test_calibration(count):
    each = {"count": 9, "predicted": 0.99, "adequate": 0.98, "correct": 0.9}
    budgets = {budget(*range(n)): each for n in range(count)}
    found = {
        "samples": 9 * count,
        "expected_calibration_error": 0.123,
        "bins": [{"predicted": 0.5, "observed": 0.4, "count": 9}],
        "per_budget": budgets,
    }
    assert faults(calibration.calibration_figure(found)) == []
