"""`python -m visor_jax.evaluate`: makes the report of checkpoints from their paths.

    python -m visor_jax.evaluate --checkpoint=runs/universal
    python -m visor_jax.evaluate --checkpoint=runs/u0,runs/u1,runs/dense --out=report
    python -m visor_jax.evaluate --checkpoint=PATH_OR_ID --benchmarks=docvqa,pope \\
        --data=FOLDER --output=predictions [--budget=sa2:1,5] [--limit=500]

A checkpoint is a workdir, its `checkpoints` folder, or one step. Several are merged:
networks of the same label that differ in their seed alone become rows of means, others
stand beside them. A policy's checkpoint adds rows for what it chooses, for chance and
for an oracle. All of them answer the same held-out pages, and their times are measured
in turn.

With --benchmarks one network is asked public benchmarks at one budget instead: a line
of JSON for every question in --output, and what they sum up to. The files lie in --data
(--list_benchmarks says which); --rescore scores again what is in --output.
"""

from absl import flags

from visor_jax.commands import answer_flags, benchmark_flags, command_line

PAGES = 1024


def define_flags() -> None:
    """Defines the program's flags; not at import, where they would meet others'."""
    flags.DEFINE_list(
        "checkpoint", None, "Workdirs or checkpoints, separated by commas."
    )
    flags.DEFINE_string(
        "out", None, "Folder of the report, also gs://; default: <first>/report."
    )
    flags.DEFINE_integer("pages", PAGES, "Held-out pages; each is asked 10 tasks.")
    flags.DEFINE_string(
        "budgets",
        None,
        "Budgets of universal networks, such as 'none,sa2:1,5,all', 'every' or '@FILE' "
        "of a sweep; default: those they were trained with.",
    )
    flags.DEFINE_string(
        "untrained",
        None,
        "The same of dense networks, which nobody trained for any: 'read', '@FILE'.",
    )
    flags.DEFINE_list(
        "cost", None, "Of policies: above 0 is cheaper; default: 0, 5 and 10."
    )
    flags.DEFINE_string(
        "cascade",
        None,
        "Adds a row for it: 'cascade', as `visor_jax.cascade` has calibrated each "
        "universal network, or e.g. 'cascade:sa0,all@0.8'.",
    )
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")
    answer_flags.define_reduce_flag()
    answer_flags.define_mesh_flag()
    benchmark_flags.define_benchmark_flags()


if __name__ == "__main__":
    command_line.begin(define_flags)

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from visor_jax.checkpoints import layout
from visor_jax.checkpoints.restore import read_metadata
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.checkpoints import (
    AskedBudgets,
    EvaluatedCheckpoint,
    check_description,
    check_replicates,
    read_checkpoint,
)
from visor_jax.evals.harness import Progress as Callback
from visor_jax.evals.networks import evaluate_networks, num_budgets
from visor_jax.evals.pages.benchmark import PageBenchmark, check_reads_pages
from visor_jax.evals.policy_choices import check_reads_no_text
from visor_jax.evals.report.cascade_rows import check_evaluated
from visor_jax.evals.report.report import ReportFacts, write_report
from visor_jax.evals.report.tables import table_text
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.choose_budgets import BudgetChoice
from visor_jax.runtime import output_place
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.runtime.progress import Progress
from visor_jax.runtime.remote.mirror import owned_place
from visor_jax.token_reduction import trained

# Where another process writes the report.
_REMEDY = "Wait for it, stop it, or give another --out."
# Cost preferences at which a policy is tried.
COSTS = (0.0, 5.0, 10.0)


def evaluate_checkpoints(
    paths: Sequence[str],
    *,
    out: str | None = None,
    pages: int = PAGES,
    budgets: str | None = None,
    untrained: str | None = None,
    split: str = "test",
    command: str = "",
    progress: Callback | None = None,
    costs: Sequence[float] | None = None,
    reduce: str | None = None,
    cascade: str | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Returns the content of report.json after writing the report of all checkpoints.

    Args:
      paths: workdirs or checkpoints.
      out: folder of the report; None for `<first path>/report`.
      budgets: comma-separated names for the universal networks; None for their own.
      untrained: the same for the dense ones, beside all layers on.
      command: that makes the report again, for the record.
      progress: called with (answers so far, of how many).
      costs: preferences at which policies are tried (`policy.choose`); None for 0, 5
        and 10.
      reduce: drops image tokens in all of them (`token_reduction.registry`).
      cascade: of the universal networks; None for no row of one.
      mesh: that each network is split over; None for one device.

    Raises:
      ValueError: for anything the user can mend, before any network runs.
      OSError: if the folder cannot be made.
    """
    asked = AskedBudgets(universal=budgets, untrained=untrained)
    checkpoints, place = _prepare(paths, out, pages, asked, split, costs, reduce, mesh)
    cascades = _cascades(checkpoints, cascade)
    with owned_place(place, remedy=_REMEDY) as folder:
        report, _ = _evaluate(
            checkpoints, folder, pages, split, command, progress, costs, cascades
        )
    return report


def _cascades(
    checkpoints: Sequence[EvaluatedCheckpoint], name: str | None
) -> list[Cascade | None]:
    """Returns the cascade of every checkpoint; of universal networks alone."""
    if name is None:
        return [None] * len(checkpoints)
    found: list[Cascade | None] = []
    for each in checkpoints:
        is_asked = each.replicate.shown_as == "universal"
        cascade = BudgetChoice.of(each.network).cascade(name) if is_asked else None
        if cascade is not None:
            check_evaluated(cascade, each.budgets.budgets)
        found.append(cascade)
    if not any(found):
        raise ValueError(
            f"--cascade={name} is for universal networks, and there is none here: "
            "leave it out."
        )
    return found


def _prepare(
    paths: Sequence[str],
    out: str | None,
    pages: int,
    asked: AskedBudgets,
    split: str,
    costs: Sequence[float] | None,
    reduce: str | None = None,
    mesh: Mesh | None = None,
) -> tuple[list[EvaluatedCheckpoint], str]:
    """Returns the checkpoints, each read once, and the place of the report."""
    split_id(split)
    reducer = trained.asked_reducer(reduce)
    if pages < 1:
        raise ValueError(f"--pages={pages} must be at least 1.")
    if not paths or not all(paths):
        raise ValueError("--checkpoint is missing: give one path or more.")
    place = out or f"{paths[0].rstrip('/')}/report"
    if layout.is_remote(place):
        layout.absolute(place)
    repeated = sorted({p for p in paths if list(paths).count(p) > 1})
    if repeated:
        raise ValueError(f"Checkpoints {repeated} are given more than once.")
    described, reductions = [read_metadata(path) for path in paths], {}
    for path, metadata in zip(paths, described, strict=True):
        config, _ = check_description(path, metadata, asked)
        try:
            check_reads_pages(config, metadata)
            reductions[path] = trained.reducer_for(reducer, config)
            if metadata.get("policy"):
                check_reads_no_text(reductions[path])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    trained.check_one_reduction(reductions)
    asked.check(described)
    _check_costs(described, costs)
    if not layout.is_remote(place):
        output_place.check_folder(place, "--out").mkdir(parents=True, exist_ok=True)
    checkpoints = [read_checkpoint(path, asked, reduce, mesh) for path in paths]
    check_replicates([checkpoint.replicate for checkpoint in checkpoints])
    return checkpoints, place


def _check_costs(
    described: Sequence[Mapping[str, Any]], costs: Sequence[float] | None
) -> None:
    """Raises ValueError for costs where there is no policy."""
    if costs is not None and not any(each.get("policy") for each in described):
        raise ValueError(
            f"--cost={','.join(f'{cost:g}' for cost in costs)} is for policies, and "
            "there is none here: leave it out, or add the checkpoint of one "
            "(configs/policy.py)."
        )


def _evaluate(
    checkpoints: Sequence[EvaluatedCheckpoint],
    out: Path,
    pages: int,
    split: str,
    command: str,
    progress: Callback | None,
    costs: Sequence[float] | None,
    cascades: Sequence[Cascade | None],
) -> tuple[dict[str, Any], str]:
    """Returns the content of report.json and the table to print."""
    benchmark = PageBenchmark.make(pages, split=split)
    costs = COSTS if costs is None else costs
    evaluated = evaluate_networks(
        checkpoints, benchmark, costs=costs, cascades=cascades, progress=progress
    )
    made = ReportFacts(
        git_commit=git_commit(), machine=machine_description(), command=command
    )
    report = write_report(evaluated, benchmark, made, out)
    return report, table_text(report["rows"], evaluated[0].predictions)


def _numbers(texts: Sequence[str] | None) -> list[float] | None:
    if texts is None:
        return None
    try:
        costs = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"--cost={','.join(texts)}: {error}.") from error
    if not costs or len(set(costs)) < len(costs) or not np.isfinite(costs).all():
        raise ValueError(f"--cost={','.join(texts)}: give different finite numbers.")
    return costs


def main(arguments: list[str]) -> None:
    """Prints the table of the report that it writes."""
    del arguments
    asked = flags.FLAGS
    if benchmark_flags.are_about_benchmarks(asked):
        benchmark_flags.run(asked)
        return
    with command_line.user_errors():
        benchmark_flags.check_alone(asked)
        if asked.checkpoint is None:
            raise ValueError("--checkpoint is missing: give one path or more.")
        costs = _numbers(asked.cost)
        names = AskedBudgets(universal=asked.budgets, untrained=asked.untrained)
        checkpoints, place = _prepare(
            *(asked.checkpoint, asked.out, asked.pages, names, asked.split, costs),
            *(asked.reduce, answer_flags.mesh_of(asked)),
        )
        cascades = _cascades(checkpoints, asked.cascade)
    total = num_budgets(checkpoints) * asked.pages
    given = shlex.join(sys.argv[1:])
    with (
        owned_place(place, remedy=_REMEDY) as out,
        Progress(total, description="evaluating", unit="pages") as shown,
    ):
        _, table = _evaluate(
            checkpoints,
            out,
            asked.pages,
            asked.split,
            f"python -m visor_jax.evaluate {given}",
            lambda done, _: shown.update(done // len(TASK_NAMES)),
            costs,
            cascades,
        )
    print(table)
    print(f"\nreport: {epath.Path(place) / 'report.md'}")


if __name__ == "__main__":
    command_line.run(main)
