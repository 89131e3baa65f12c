"""Measures what is not there yet, and writes the comparison's report.

OUT/rows/...json     what each network answered in each condition
OUT/times.json       of all conditions, measured in one run
OUT/report.json, report.md, and the pictures
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals.baselines import kept_sheet, markdown, pictures
from visor_jax.evals.baselines.conditions import Comparison, Condition
from visor_jax.evals.baselines.measure import (
    Costs,
    Subject,
    costs,
    file_of_outcome,
    measured,
)
from visor_jax.evals.baselines.outcome import ROWS, Outcome
from visor_jax.evals.baselines.rows import (
    Chosen,
    Row,
    auto_row,
    row_of,
    visor_rows,
)
from visor_jax.evals.baselines.times import (
    BATCHES,
    RUNS,
    Timed,
    Times,
    describe,
    milliseconds,
)
from visor_jax.evals.benchmark import Benchmark, PromptLengths
from visor_jax.evals.report import style
from visor_jax.evals.report.report import REPORT_JSON, REPORT_MD, ReportFacts
from visor_jax.evals.report.rows import RunFacts
from visor_jax.runtime import atomic_write
from visor_jax.runtime.memory_maps import let_programs_go

TIMES = "times.json"
# What `Timed` has beside the times.
_GROUPS = ("first", "second")

# Called with (answers so far, in all conditions).
Progress = Callable[[int], None]
Outcomes = dict[str, list[Outcome]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What is compared, on what, and where that is written.

    subjects: of each network's name in conditions, one of each seed. facts: (label,
    facts) of all checkpoints, policies among them.
    """

    comparison: Comparison
    subjects: Mapping[str, Sequence[Subject]]
    benchmark: Benchmark
    prompt: PromptLengths
    out: Path
    facts: Sequence[tuple[str, RunFacts]]

    @property
    def work(self) -> list[tuple[Subject, Condition]]:
        """Every network in every condition, the first seed first."""
        seeds = max(map(len, self.subjects.values()))
        return [
            (self.subjects[condition.network][seed], condition)
            for seed in range(seeds)
            for condition in self.comparison.conditions
            if seed < len(self.subjects[condition.network])
        ]

    def file(self, subject: Subject, condition: Condition) -> Path:
        """Returns where an outcome lies."""
        return file_of_outcome(self.out, subject, condition, self.benchmark)

    def costs(self, condition: Condition) -> Costs:
        """Returns what a prompt takes in a condition."""
        network = self.subjects[condition.network][0].at(condition)
        return costs(network, condition, self.prompt)

    def done(self) -> int:
        """Returns how many outcomes are there."""
        return sum(self.file(*each).exists() for each in self.work)


def outcomes(study: Study, progress: Progress | None = None) -> Outcomes:
    """Returns the outcomes of every condition, by its name; measures those lacking.

    Each is written as soon as it is there.

    Raises:
      ValueError: for a file that is no outcome.
    """
    (study.out / ROWS).mkdir(parents=True, exist_ok=True)
    found: Outcomes = {}
    done = study.done() * len(study.benchmark)
    for subject, condition in study.work:
        file = study.file(subject, condition)
        if not file.exists():

            def shown(answers: int, _: int, done: int = done) -> None:
                if progress is not None:
                    progress(done + answers)

            measured(subject, condition, study.benchmark, study.prompt, shown).write(
                file
            )
            done += len(study.benchmark)
            # Each condition has programs of its own, and there are many of them.
            let_programs_go()
        found.setdefault(condition.name, []).append(Outcome.read(file))
    return found


def times(
    study: Study,
    machine: str,
    *,
    again: bool = False,
    progress: Callable[[int], None] = lambda compiled: None,
) -> Timed:
    """Returns the times of all conditions; measured if there are none yet.

    Args:
      machine: they are of this one. again: whether to measure them anew.
      progress: called with how many programs have been compiled.
    """
    subjects = {name: each[0] for name, each in study.subjects.items()}
    file, conditions = study.out / TIMES, study.comparison.conditions
    identity = {
        "conditions": [each.name for each in conditions],
        "networks": {n: s.network.fingerprint for n, s in subjects.items()},
        "batches": list(BATCHES),
        "runs": RUNS,
    }
    if file.exists() and not again:
        found = json.loads(file.read_text())
        if {name: found.get(name) for name in identity} == identity:
            rows = found["milliseconds"].items()
            taken = {name: _by_rows(each) for name, each in rows}
            # Older ones are of one group.
            first, second = (
                [_by_rows(each) for each in found.get(name, ())] for name in _GROUPS
            )
            return Timed(taken, first, second)
    timed = milliseconds(subjects, conditions, study.benchmark, progress=progress)
    found = {"milliseconds": timed.times, **{n: getattr(timed, n) for n in _GROUPS}}
    atomic_write.write_json(file, {**identity, "machine": machine, **found})
    return timed


def _by_rows(found: Mapping[str, float]) -> dict[int, float]:
    return {int(rows): ms for rows, ms in found.items()}


def write(
    study: Study,
    found: Outcomes,
    timed: Timed,
    made: ReportFacts,
    *,
    reference: Sequence[str],
    chosen: Sequence[Chosen] = (),
) -> dict[str, Any]:
    """Returns the content of report.json after writing all files.

    Args:
      reference: budgets of VISOR that methods are set beside. chosen: by the policy of
        each seed, if there are policies.
    """
    out, benchmark = study.out, study.benchmark
    rows = _rows(study, found, timed.times, chosen)
    style.save(pictures.accuracy_vs_flops(rows), out / pictures.ACCURACY_VS_FLOPS)
    style.save(pictures.accuracy_vs_time(rows), out / pictures.ACCURACY_VS_TIME)
    shown = [(c, found[c.name][0]) for c in study.comparison.conditions if c.shown]
    sheet = kept_sheet.draw(shown, benchmark, study.prompt.image_tokens)
    if sheet is not None:
        style.save(sheet, out / kept_sheet.KEPT_TOKENS)
    now = datetime.datetime.now(datetime.UTC)
    first = found[study.comparison.conditions[0].name][0]
    report = {
        "git_commit": made.git_commit,
        "machine": made.machine,
        "timed_on": json.loads((out / TIMES).read_text())["machine"],
        "command": made.command,
        "time": now.isoformat(timespec="seconds"),
        "data": {
            "split": benchmark.split,
            "cluster_name": benchmark.cluster_name,
            "clusters": len(set(first.cluster)),
            "questions": len(first.scores),
            "image_tokens": study.prompt.image_tokens,
        },
        "lengths": dataclasses.asdict(study.prompt),
        "timing": describe(benchmark.cluster_name, timed),
        "reference": list(reference),
        "sheet": sheet is not None,
        "refused": study.comparison.refused,
        "rows": rows,
        "runs": [{"label": n, **facts.to_dict()} for n, facts in study.facts],
    }
    atomic_write.write_text(out / REPORT_MD, markdown.report_text(report))
    # Last: whoever finds report.json finds everything else.
    atomic_write.write_json(out / REPORT_JSON, report)
    return report


def _rows(
    study: Study, found: Outcomes, taken: Times, chosen: Sequence[Chosen]
) -> list[Row]:
    groups = dict(study.benchmark.groups)
    if not groups:
        any_outcome = next(iter(found.values()))[0]
        groups = {"all": any_outcome.tasks}
    conditions = study.comparison.conditions
    rows = [
        row_of(each, found[each.name], study.costs(each), groups, taken)
        for each in conditions
    ]
    if chosen:
        at_budgets = [
            [found[f"VISOR {budget.name}"][seed] for budget in each.budgets]
            for seed, each in enumerate(chosen)
        ]
        auto = auto_row(chosen, at_budgets, groups, visor_rows(rows))
        rows.insert(1 + len(visor_rows(rows)), auto)
    return rows
