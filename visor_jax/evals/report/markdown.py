"""report.md: the report's rows as tables, with what is counted and how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report import examples, pictures, saturated
from visor_jax.evals.report.tables import (
    budget_name,
    layers_on,
    milliseconds,
    model_name,
    model_names,
)
from visor_jax.flops.table import GIGA, HEADER

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def report_text(report: Report, asked: Predictions) -> str:
    """Returns the whole of report.md.

    Args:
      asked: any of the predictions that the report is made of.
    """
    rows, name = report["rows"], asked.benchmark.cluster_name
    parts = [
        "# Accuracy and cost at every budget",
        _summary(asked),
        f"![Accuracy against FLOPs]({pictures.ACCURACY_VS_FLOPS})",
        "## Budgets",
        _budget_table(rows, name),
        *_against_controls(rows),
        *_seed_section(rows),
        "## Tasks",
        f"![Accuracy by task and budget]({pictures.TASKS_BY_BUDGET})",
        _task_table(rows, asked.groups),
        *_regrouped(rows, asked.groups),
        "## Examples",
        f"![{name.capitalize()}s, questions and answers at every budget]"
        f"({examples.EXAMPLES})",
        "## What is counted",
        _counting(report, asked),
        "## How this was made",
        origin(report),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(asked: Predictions) -> str:
    name, clusters = asked.benchmark.cluster_name, asked.num_clusters
    what = f"{clusters} held-out {name}s (split `{asked.benchmark.split}`)"
    if asked.asks_every_task_once:
        what += f", each asked {len(asked.tasks)} tasks once."
    else:
        what += f", {len(asked.ids)} questions of {len(asked.tasks)} tasks about them."
    if asked.reducer is not None:
        what += f" Image tokens are reduced by `{asked.reducer}`, in every row."
    return (
        f"{what} A budget names the SELF layers that are on "
        "(`sa2:1,3`: two of them, layers 1 and 3). Accuracies in per cent with 95 % "
        f"intervals; FLOPs and milliseconds per {name}."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Returns a Markdown table whose first `left` columns are flush left."""
    rule = [":--"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(r) + " |" for r in [header, rule, *rows])


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns (model, budget) of each row."""
    budgets = [f"`{budget_name(row)}`" for row in rows]
    return list(zip(model_names(rows), budgets, strict=True))


def percent(value: float) -> str:
    """Returns a share like "89.8"."""
    return f"{100 * value:.1f}"


def with_interval(row: Row, group: str) -> str:
    """Returns the accuracy of a group in per cent, and its interval."""
    low, high = row["intervals"][group]
    mean = percent(row["accuracy"][group])
    return f"{mean} ({percent(low)}–{percent(high)})"


def _groups(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]["accuracy"])


def _budget_table(rows: Sequence[Row], name: str) -> str:
    groups = _groups(rows)
    header = ["model", "budget", "seeds", "SELF on", *groups]
    lines = [
        [
            *name,
            str(len(row["seeds"])),
            layers_on(row),
            *(with_interval(row, group) for group in groups),
            f"{row['flops']['llm_prefill'] / 1e6:,.1f}",
            f"{row['llm_saving']:.2f}x",
            f"{row['end_to_end_saving']:.2f}x",
            milliseconds(row),
        ]
        for name, row in zip(_names(rows), rows, strict=True)
    ]
    header += ["LLM MFLOP", "LLM saving", "end-to-end saving", "ms"]
    return table(header, lines, left=2) + "\n\n" + _budget_notes(rows, name)


def _budget_notes(rows: Sequence[Row], name: str) -> str:
    notes = []
    if any(len(row["seeds"]) == 1 for row in rows):
        notes.append(
            f"Intervals of one seed: this network's accuracy, had other {name}s been "
            "asked; how another seed would turn out, they do not say."
        )
    if any(len(row["seeds"]) > 1 for row in rows):
        notes.append(
            f"Intervals of several seeds: the mean's, over {name}s and training seeds "
            f"(variance over {name}s plus variance between seeds, Student's t)."
        )
    if any(row["ms_is"] == "predicted" for row in rows):
        notes.append(
            "≈: not measured but predicted from the budgets' own times, mixed as they "
            "were chosen, without the time of the policy and of grouping; "
            "`python -m visor_jax.timing.engine` measures those."
        )
    return " ".join(notes)


def _task_table(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> str:
    names = list(rows[0]["tasks"])
    group_of = {task: f" ({g})" for g, tasks in groups.items() for task in tasks}
    header = ["model", "budget", *(n + group_of.get(n, "") for n in names)]
    lines = [
        [*name, *(percent(v) for v in row["tasks"].values())]
        for name, row in zip(_names(rows), rows, strict=True)
    ]
    intervals = [row["intervals"][task] for row in rows for task in names]
    widest = max(high - low for low, high in intervals)
    note = (
        "The widest 95 % interval of a single task here spans "
        f"{100 * widest:.1f} points (all are in report.json)."
    )
    return table(header, lines, left=2) + "\n\n" + note


def _regrouped(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the groups' means with saturated tasks called easy, if there are any."""
    moved = saturated.saturated_tasks(rows, groups)
    if not moved:
        return []
    lines = []
    for name, row in zip(_names(rows), rows, strict=True):
        means = saturated.regrouped(row, groups, moved)
        both = [*(row["accuracy"][g] for g in groups), *(means[g] for g in groups)]
        lines.append([*name, *("–" if v is None else percent(v) for v in both)])
    header = ["model", "budget", *groups, *(f"{g}, regrouped" for g in groups)]
    return [saturated.rule_of(moved), table(header, lines, left=2)]


def _against_controls(rows: Sequence[Row]) -> list[str]:
    """Returns the section that sets universal rows beside dense and dedicated ones."""
    universal = {row["budget"]: row for row in rows if row["model"] == "universal"}
    if not universal:
        return []
    largest = max(universal.values(), key=lambda row: row["self_layers_on"])
    pairs = [
        (universal[row["budget"]], row)
        for row in rows
        if row["model"] == f"dedicated:{row['budget']}" and row["budget"] in universal
    ]
    pairs += [(largest, row) for row in rows if row["model"] == "dense"]
    if not pairs:
        return []
    lines, groups = [], _groups(rows)
    for ours, control in pairs:
        gaps = [ours["accuracy"][g] - control["accuracy"][g] for g in groups]
        lines.append(
            [
                f"`{budget_name(ours)}`",
                f"{model_name(control)} `{budget_name(control)}`",
                *(f"{100 * gap:+.1f}" for gap in gaps),
                f"{control['ms_per_sample'] / ours['ms_per_sample']:.2f}x",
            ]
        )
    header = ["universal at", "control", *(f"{g}, points" for g in groups), "speed-up"]
    text = "Universal network minus control, in points of accuracy."
    return [
        "## Against the controls",
        text,
        table(header, lines, left=2),
    ]


def _seed_section(rows: Sequence[Row]) -> list[str]:
    """Returns mean, spread and single values of rows with several seeds."""
    several = [row for row in rows if "spread" in row]
    if not several:
        return []
    lines = []
    for name, row in zip(_names(several), several, strict=True):
        line = [*name, ", ".join(map(str, row["seeds"]))]
        for group in _groups(rows):
            spread = row["spread"][group]
            values = ", ".join(percent(v) for v in spread["values"])
            mean = percent(row["accuracy"][group])
            line.append(f"{mean} ± {100 * spread['std']:.1f} ({values})")
        lines.append(line)
    header = ["model", "budget", "seeds", *_groups(rows)]
    text = (
        "Rows above are means over training seeds. Here: mean ± standard deviation of "
        "the seeds (each seed)."
    )
    return ["## Seeds", text, table(header, lines, left=3)]


def _counting(report: Report, asked: Predictions) -> str:
    lengths, flops = report["lengths"], report["rows"][0]["flops"]
    name = asked.benchmark.cluster_name
    return "\n\n".join(
        [
            _what_is_right(asked),
            f"FLOPs of one {name} with {lengths['image_tokens']} image tokens and a "
            f"prompt of {lengths['text_tokens']} text tokens, logits at the last one. "
            f"Tower {flops['tower'] / GIGA:.4f} GFLOP and projector "
            f"{flops['projector'] / GIGA:.4f} GFLOP come before the LLM at every "
            "budget.",
            f"```text\n{HEADER}\n```",
            report["timing"],
        ]
    )


def _what_is_right(asked: Predictions) -> str:
    name, groups = asked.benchmark.cluster_name, [f"`{g}`" for g in asked.groups]
    if asked.asks_every_task_once:
        why = f"(all tasks are asked about the same {name}s), those of tasks the "
        why += "question."
    else:
        why = f"(questions about one {name} go together)."
    are, their = ("are", "their") if len(groups) > 1 else ("is the", "its")
    means = "unweighted means" if len(groups) > 1 else "unweighted mean"
    return (
        f"{_metric(asked)} {' and '.join(groups)} {are} {means} over {their} "
        f"tasks; {their} intervals take the {name} as the unit that varies {why} All "
        "are Wilson's, of the sample size that has the same variance."
    )


def _metric(asked: Predictions) -> str:
    (name, *_) = asked.scores
    if name == "exact_match":
        return (
            "An answer is right if all its tokens and its end are, as greedy decoding "
            "would write them."
        )
    return f"Accuracies are means of `{name}`, of what greedy decoding writes."


def origin(report: Report, network: str = "model") -> str:
    """Returns which runs a report is of, and how it was made.

    network: what heads the column of the runs' names.
    """
    header = [network, "preset", "seed", "steps", "training", "commit", "checkpoint"]
    lines = [
        [
            run["model"],
            run["preset"],
            str(run["seed"]),
            f"{run['train_steps']:,}",
            duration(run["wall_clock_s"]),
            f"`{run['git_commit'][:12]}`",
            f"`{run['checkpoint']}`" if run["checkpoint"] else "",
        ]
        for run in report["runs"]
    ]
    facts = [
        f"- Command: `{report['command']}`",
        f"- Machine: {report['machine']}",
        f"- Commit: `{report['git_commit']}`",
        f"- Time: {report['time']}",
    ]
    return table(header, lines, left=2) + "\n\n" + "\n".join(facts)


def duration(seconds: float) -> str:
    """Returns "7 min 05 s", or "2 h 03 min" from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
