"""Writes what an evaluation found: report.json, report.md and the pictures.

report.json is read by others. Per row: "model" is "universal", "dense",
"dedicated:<budget>", "stage:<name>" or "policy:<name>"; accuracies are in 0..1; FLOPs
are per sample; savings are factors against the dense network (2.0 = half the FLOPs);
"ms_is" says whether the time was measured or predicted. At the top, "preset",
"train_steps" and "wall_clock_s" (of training) are those of the first run; "runs" has
them all; "reduce" names what dropped image tokens, if anything did.
"""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals import timing
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.harness import Progress, predict
from visor_jax.evals.report import examples, markdown, pictures, style
from visor_jax.evals.report.rows import EvaluatedRun, RunFacts, make_rows
from visor_jax.evals.report.tables import table_text
from visor_jax.inference.loading.network import Network
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


def build_report(runs: Sequence[EvaluatedRun], made: ReportFacts) -> dict[str, Any]:
    """Returns the content of report.json.

    Raises:
      ValueError: without runs.
    """
    if not runs:
        raise ValueError("A report needs at least one run.")
    now = datetime.datetime.now(datetime.UTC)
    first, asked = runs[0].facts, runs[0].predictions
    cluster_name = asked.benchmark.cluster_name
    return {
        "preset": first.preset,
        "git_commit": made.git_commit,
        "machine": made.machine,
        "wall_clock_s": first.wall_clock_s,
        "train_steps": first.train_steps,
        "seeds": sorted({run.facts.seed for run in runs}),
        "rows": make_rows(runs),
        "command": made.command,
        "time": now.isoformat(timespec="seconds"),
        "data": {
            "split": asked.benchmark.split,
            f"{cluster_name}s": asked.num_clusters,
        },
        "lengths": asked.mean_lengths(),
        **({} if asked.reducer is None else {"reduce": asked.reducer}),
        "timing": timing.describe(cluster_name),
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
    benchmark: Benchmark,
    made: ReportFacts,
    out: str | os.PathLike,
) -> dict[str, Any]:
    """Returns the content of report.json after writing all files into folder `out`.

    Args:
      benchmark: whose first pictures are shown with their questions and answers; every
        number is of the runs' predictions.

    Raises:
      ValueError: as `build_report`.
    """
    report = build_report(runs, made)
    out, rows, asked = Path(out), report["rows"], runs[0].predictions
    out.mkdir(parents=True, exist_ok=True)
    style.save(pictures.accuracy_vs_flops(rows), out / pictures.ACCURACY_VS_FLOPS)
    tasks = pictures.tasks_by_budget(rows, asked.groups)
    style.save(tasks, out / pictures.TASKS_BY_BUDGET)
    style.save(examples.draw(runs, benchmark), out / examples.EXAMPLES)
    atomic_write.write_text(out / REPORT_MD, markdown.report_text(report, asked))
    # Last: whoever finds report.json finds everything else.
    atomic_write.write_json(out / REPORT_JSON, report)
    return report


def report_run(
    network: Network,
    *,
    label: str,
    facts: RunFacts,
    made: ReportFacts,
    benchmark: Benchmark,
    out: str | os.PathLike,
    progress: Progress | None = None,
) -> str:
    """Returns the table to print, after evaluating one network and writing its report.

    Args:
      label: "universal", "dense", "dedicated:<budget>" or "stage:<name>".
      out: folder of the report.
      progress: called with (answers so far, of how many).

    Raises:
      ValueError: for another label.
    """
    check_label(label)
    predictions = predict(network, benchmark, progress=progress)
    prompts = timing.prompts(network, benchmark)
    programs = timing.prefill_programs(network, network.budgets, prompts)
    run = EvaluatedRun(
        label=label,
        facts=facts,
        network=facts.checkpoint,
        predictions=predictions,
        ms_per_sample=timing.milliseconds_per_row(programs),
    )
    report = write_report([run], benchmark, made, out)
    return table_text(report["rows"], predictions)


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
