"""report.md of the comparison: tables, what is counted, and how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.evals.baselines import kept_sheet, pictures
from visor_jax.evals.baselines.conditions import (
    CONTROL,
    DENSE,
    EARLY,
    INSIDE,
    TRAINED,
)
from visor_jax.evals.baselines.rows import Row, best_at, cost_of, visor_rows
from visor_jax.evals.report.markdown import origin, percent, table, with_interval

Report = Mapping[str, Any]
# What may not be dearer than VISOR's, and how it is called.
_MEASURES = {
    "llm": "LLM FLOPs",
    "end_to_end": "end-to-end FLOPs",
    "ms1": "time, batch of 1",
    "ms32": "time, batch of 32",
}


def report_text(report: Report) -> str:
    """Returns the whole of report.md."""
    rows = report["rows"]
    parts = [
        "# Token reduction beside VISOR",
        _summary(report),
        f"![Accuracy against FLOPs]({pictures.ACCURACY_VS_FLOPS})",
        f"![Accuracy against measured time]({pictures.ACCURACY_VS_TIME})",
        *_at_equal_cost(report),
        "## All rows",
        _table(rows),
        "## Tasks",
        _tasks(rows),
        *_sheet(report),
        *_refused(report),
        "## What is counted",
        _counting(report),
        "## How this was made",
        _origin(report),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(report: Report) -> str:
    data = report["data"]
    name = data["cluster_name"]
    return (
        f"{data['clusters']} held-out {name}s (split `{data['split']}`), "
        f"{data['questions']} questions about them. Methods stand on the dense network "
        "as they are published, without training, but for those that say so; `keep` "
        f"is the share of the image's {data['image_tokens']} tokens that every layer "
        "sees, `average` the tokens that a layer sees in the mean. Accuracies in per "
        "cent with 95 % intervals; "
        f"FLOPs and milliseconds per {name}; end to end includes choosing and merging."
    )


def _at_equal_cost(report: Report) -> list[str]:
    """Returns the section that sets the best of the methods beside VISOR's budgets."""
    rows, lines = report["rows"], []
    ours = visor_rows(rows)
    group = list(rows[0]["accuracy"])[-1]
    methods = [row for row in rows if row["kind"] in (EARLY, INSIDE)]
    trained = [row for row in rows if row["kind"] == TRAINED]
    controls = {
        name: [r for r in rows if r["kind"] == CONTROL and _method(r) == name]
        for name in dict.fromkeys(_method(r) for r in rows if r["kind"] == CONTROL)
    }
    for budget in report["reference"]:
        for measure, called in _MEASURES.items():
            row = ours[budget]
            best = best_at(methods, row, measure, group)
            learned = best_at(trained, row, measure, group)
            others = [best_at(each, row, measure, group) for each in controls.values()]
            lines.append(
                [
                    f"`{budget}`",
                    called,
                    with_interval(row, group),
                    *_or_none(best, group, beside=row),
                    *(_or_none(learned, group, beside=row) if trained else ()),
                    *(cell for each in others for cell in _or_none(each, group)),
                ]
            )
    if not lines or not (methods or controls or trained):
        return []
    header = ["VISOR", "at no more", f"{group}, VISOR", "best method", group]
    header += ["best trained", group] if trained else []
    header += [f"{group}, {name}" for name in controls]
    text = (
        "Of the rows below that cost no more than a budget of VISOR, the most accurate "
        f"on `{group}`. It is chosen by the same {report['data']['cluster_name']}s, "
        "which flatters the methods."
    )
    return ["## At equal cost", text, table(header, lines, left=2)]


def _or_none(row: Row | None, group: str, *, beside: Row | None = None) -> list[str]:
    """Returns the cell of a row, with its name before it where it is `beside` one."""
    if row is None:
        return ["–"] if beside is None else ["none", "–"]
    cell = with_interval(row, group)
    if beside is None:
        return [cell]
    count, most = len(row["seeds"]), len(beside["seeds"])
    fewer = "" if count == most else f" ({count} of {most} seeds)"
    return [f"`{row['reduce']}`{fewer}", cell]


def _table(rows: Sequence[Row]) -> str:
    groups, sizes = list(rows[0]["accuracy"]), list(rows[0]["ms"])
    header = ["row", "seeds", "tokens a layer", *groups]
    header += ["LLM MFLOP", "LLM", "end-to-end MFLOP", "end to end"]
    header += [f"ms, batch {size}" for size in sizes]
    header += ["cache, KB"]
    lines = []
    for row in rows:
        flops, mark = row["flops"], "" if row["ms_is"] == "measured" else "≈"
        lines.append(
            [
                f"`{row['name']}`" + _made_for(row),
                str(len(row["seeds"])),
                f"{row['image_tokens']:.4g}",
                *(with_interval(row, group) for group in groups),
                f"{flops['llm_prefill'] / 1e6:,.1f}",
                f"{cost_of(row, 'llm'):.1f} %",
                f"{flops['end_to_end'] / 1e6:,.1f}",
                f"{cost_of(row, 'end_to_end'):.1f} %",
                *(f"{mark}{row['ms'][size]:.2f}" for size in sizes),
                f"{row['cache_bytes'] / 1e3:,.0f}",
            ]
        )
    note = (
        "Tokens a layer: image tokens that reach a layer, in the mean over all layers; "
        "VISOR's text looks at them in some layers alone. In brackets: the budget of "
        "VISOR whose LLM FLOPs the row was made for. ≈: predicted from the budgets' "
        "own times."
    )
    return table(header, lines, left=1) + "\n\n" + note


def _made_for(row: Row) -> str:
    return f" ({row['matched']})" if row["matched"] else ""


def _tasks(rows: Sequence[Row]) -> str:
    names = list(rows[0]["tasks"])
    lines = [
        [f"`{row['name']}`", *(percent(row["tasks"][name]) for name in names)]
        for row in rows
    ]
    return table(["row", *names], lines, left=1)


def _sheet(report: Report) -> list[str]:
    if not report["sheet"]:
        return []
    return [
        "## Which tokens stay",
        f"![Kept tokens and answers]({kept_sheet.KEPT_TOKENS})",
    ]


def _refused(report: Report) -> list[str]:
    if not report["refused"]:
        return []
    lines = [f"- {what}: {why}" for what, why in report["refused"].items()]
    return ["## What is not there", "\n".join(lines)]


def _counting(report: Report) -> str:
    lengths = report["lengths"]
    return "\n\n".join(
        [
            f"FLOPs of one prompt of {lengths['text_tokens']} text tokens and "
            f"{lengths['image_tokens']} image tokens in {lengths['crops']} crop(s), "
            "logits at the last one; 1 multiply-add = 2 FLOPs; matrix products and "
            "convolutions. Methods between layers have their own products in the "
            "LLM's, those before the decoder end to end alone. Cache: keys and values "
            "of such a prompt.",
            report["timing"],
        ]
    )


def _origin(report: Report) -> str:
    runs = [{**run, "model": run["label"]} for run in report["runs"]]
    machine = f"{report['machine']}; times: {report['timed_on']}"
    return origin({**report, "runs": runs, "machine": machine}, "network")


def _method(row: Row) -> str:
    return DENSE if row["reduce"] == "none" else row["reduce"].partition(":")[0]
