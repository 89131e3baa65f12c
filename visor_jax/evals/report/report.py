"""Writes what an evaluation found: report.json, report.md and the pictures.

report.json is read by others. Per row: "model" is "universal", "dense",
"dedicated:<budget>", "stage:<name>" or "policy:<name>"; accuracies are in 0..1; FLOPs
are per sample; savings are factors against the dense network (2.0 = half the FLOPs);
"ms_is" says whether the time was measured or predicted. At the top, "preset",
"train_steps" and "wall_clock_s" (of training) are those of the first run; "runs" has
them all.
"""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visor_jax.budget import BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.harness import Params, Progress, evaluate_budgets
from visor_jax.evals.pages import examples
from visor_jax.evals.pages.benchmark import EvaluationSet
from visor_jax.evals.report import markdown, pictures
from visor_jax.evals.report.rows import EvaluatedRun, PromptLengths, RunFacts, make_rows
from visor_jax.evals.report.tables import table_text
from visor_jax.models.vlm import VLM
from visor_jax.runtime import atomic_write

REPORT_JSON, REPORT_MD = "report.json", "report.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """How a report came about.

    git_commit: of the code that evaluated; machine: on which times were measured.
    command: that makes the report again.
    """

    git_commit: str
    machine: str
    command: str


def build_report(
    runs: Sequence[EvaluatedRun], evaluation_set: EvaluationSet, made: ReportFacts
) -> dict[str, Any]:
    """Returns the content of report.json.

    Raises:
      ValueError: without runs.
    """
    if not runs:
        raise ValueError("A report needs at least one run.")
    lengths = PromptLengths.of(evaluation_set)
    now = datetime.datetime.now(datetime.UTC)
    first = runs[0].facts
    return {
        "preset": first.preset,
        "git_commit": made.git_commit,
        "machine": made.machine,
        "wall_clock_s": first.wall_clock_s,
        "train_steps": first.train_steps,
        "seeds": sorted({run.facts.seed for run in runs}),
        "rows": make_rows(runs, lengths),
        "command": made.command,
        "time": now.isoformat(timespec="seconds"),
        "data": {
            "split": evaluation_set.pool.split,
            "pages": len(evaluation_set.pool),
        },
        "lengths": dataclasses.asdict(lengths),
        "timing": timing.describe(),
        "runs": [
            {
                "model": run.label if run.policy is None else run.policy.label,
                **run.facts.to_dict(),
                "network": run.network,
            }
            for run in runs
        ],
    }


def write_report(
    runs: Sequence[EvaluatedRun],
    evaluation_set: EvaluationSet,
    made: ReportFacts,
    out: str | os.PathLike,
) -> dict[str, Any]:
    """Returns the content of report.json after writing all files into folder `out`.

    Raises:
      ValueError: as `build_report`.
    """
    report = build_report(runs, evaluation_set, made)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pictures.accuracy_vs_flops(report["rows"], out / pictures.ACCURACY_VS_FLOPS)
    pictures.tasks_by_budget(report["rows"], out / pictures.TASKS_BY_BUDGET)
    examples.draw(runs, evaluation_set, out / examples.EXAMPLES)
    atomic_write.write_text(out / REPORT_MD, markdown.report_text(report))
    # Last: whoever finds report.json finds everything else.
    atomic_write.write_json(out / REPORT_JSON, report)
    return report


def report_run(
    model: VLM,
    params: Params,
    budgets: BudgetSet,
    *,
    label: str,
    facts: RunFacts,
    made: ReportFacts,
    evaluation_set: EvaluationSet,
    out: str | os.PathLike,
    progress: Progress | None = None,
) -> str:
    """Returns the table to print, after evaluating one network and writing its report.

    Args:
      label: "universal", "dense" or "dedicated:<budget>".
      out: folder of the report.
      progress: called with (forward passes done, all).

    Raises:
      ValueError: for another label, or budgets of another plan.
    """
    check_label(label)
    results = evaluate_budgets(
        model, params, budgets, evaluation_set, progress=progress
    )
    run = EvaluatedRun(
        label=label,
        facts=facts,
        network=facts.checkpoint,
        config=model.config,
        results=tuple(results),
        ms_per_sample=timing.time_budgets(model, params, budgets, evaluation_set),
    )
    report = write_report([run], evaluation_set, made, out)
    return table_text(report["rows"])


def check_policy_label(label: str) -> None:
    """Raises ValueError unless a policy's rows can be told from a network's by it."""
    kind, _, name = label.partition(":")
    if kind != "policy" or not name:
        raise ValueError(
            f"Policy label {label!r}: it is 'policy:' and a name of your choice."
        )


def check_label(label: str) -> None:
    """Raises ValueError unless `label` is one that report.json knows."""
    kind, _, name = label.partition(":")
    named = kind in ("dedicated", "stage") and name
    if label not in ("universal", "dense") and not named:
        raise ValueError(
            f"Unknown model label {label!r}: it is 'universal', 'dense', "
            "'dedicated:<budget>' or 'stage:<name>'."
        )
