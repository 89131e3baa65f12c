"""Rows of a report as plain text, for the end of a training run."""

from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.evals.predictions import Predictions
from visor_jax.flops.table import aligned

WIDTH = 100
_LONGEST_NAME = 16


def model_name(row: Mapping[str, Any]) -> str:
    """Returns "universal", "dense", "untrained", "dedicated", "stage" or "policy"."""
    return row["model"].partition(":")[0]


def model_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns each row's `model_name`; of policies the whole label if labels differ."""
    policies = {row["model"] for row in rows if model_name(row) == "policy"}
    return [
        row["model"] if row["model"] in policies and len(policies) > 1 else kind
        for row, kind in zip(rows, map(model_name, rows), strict=True)
    ]


def milliseconds(row: Mapping[str, Any]) -> str:
    """Returns the time per prompt, like "0.55", or "≈0.55" if it is predicted."""
    mark = "≈" if row["ms_is"] == "predicted" else ""
    return f"{mark}{row['ms_per_sample']:.2f}"


def budget_name(row: Mapping[str, Any]) -> str:
    """Returns the budget's name; layers in the middle of a long list become "…"."""
    name = row["budget"]
    if len(name) <= _LONGEST_NAME:
        return name
    return "+".join(_shortened(part) for part in name.split("+"))


def _shortened(part: str) -> str:
    count, _, listed = part.partition(":")
    if listed.count(",") < 3:
        return part
    layers = listed.split(",")
    return f"{count}:{layers[0]},{layers[1]},…,{layers[-1]}"


def layers_on(row: Mapping[str, Any]) -> str:
    """Returns how many SELF layers are on; a mean where questions differ."""
    count = row["self_layers_on"]
    return str(count) if isinstance(count, int) else f"{count:.2f}"


def percent(row: Mapping[str, Any], group: str) -> str:
    """Returns a group's accuracy like "89.8", or "89.8 ±0.6" (std over seeds)."""
    text = f"{100 * row['accuracy'][group]:.1f}"
    if "spread" in row:
        text += f" ±{100 * row['spread'][group]['std']:.1f}"
    return text


def what_was_asked(asked: Predictions) -> str:
    """Returns like "1024 held-out pages, every task once a page"."""
    name, clusters = asked.benchmark.cluster_name, asked.num_clusters
    if asked.asks_every_task_once:
        return f"{clusters} held-out {name}s, every task once a {name}"
    return f"{len(asked.ids)} questions about {clusters} held-out {name}s"


def table_text(rows: Sequence[Mapping[str, Any]], asked: Predictions) -> str:
    """Returns two tables, budgets against cost and budgets against tasks.

    At most `WIDTH` columns with the ten tasks of the embedded benchmark.

    Args:
      asked: any of the predictions that the rows are made of.
    """
    several = len({row["model"] for row in rows}) > 1
    groups, name = list(asked.groups), asked.benchmark.cluster_name
    header = ["budget", "SELF on", *(f"{group} %" for group in groups)]
    costs = [[*header, "LLM saving", "end-to-end", f"ms/{name}"]]
    tasks = [["budget", *rows[0]["tasks"]]]
    for row in rows:
        costs.append(
            [
                budget_name(row),
                layers_on(row),
                *(percent(row, group) for group in groups),
                f"{row['llm_saving']:.2f}x",
                f"{row['end_to_end_saving']:.2f}x",
                milliseconds(row),
            ]
        )
        tasks.append(
            [budget_name(row), *(f"{100 * v:.1f}" for v in row["tasks"].values())]
        )
    if several:
        names = ["model", *model_names(rows)]
        costs, tasks = _beside(names, costs), _beside(names, tasks)
    lines = [*aligned(costs), "", *aligned(tasks), "", *_notes(rows, asked)]
    return "\n".join(line.rstrip() for line in lines)


def _beside(names: list[str], table: list[list[str]]) -> list[list[str]]:
    # One column: `aligned` sets only the first one flush left.
    width = max(map(len, names)) + 2
    return [
        [name.ljust(width) + first, *others]
        for name, (first, *others) in zip(names, table, strict=True)
    ]


def _notes(rows: Sequence[Mapping[str, Any]], asked: Predictions) -> list[str]:
    groups, name = " and ".join(asked.groups), asked.benchmark.cluster_name
    several = len(asked.groups) > 1
    means = "are means over their tasks" if several else "is the mean over its tasks"
    notes = [
        f"{what_was_asked(asked)}; {groups} {means}.",
        "Savings are FLOPs of the dense network / FLOPs: the LLM's prefill alone, and "
        "end to end",
        f"with tower and projector. ms/{name}: a prefill with one question, on this "
        "machine.",
    ]
    if any(row["ms_is"] == "predicted" for row in rows):
        notes.append(
            "≈: predicted from the budgets' own times, without policy and grouping."
        )
    if any("spread" in row for row in rows):
        notes.append("±: standard deviation over training seeds.")
    return notes
