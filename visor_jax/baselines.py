"""`python -m visor_jax.baselines`: token reduction beside VISOR, on trained networks.

    python -m visor_jax.baselines --dense=runs/dense --universal=runs/universal \\
        --out=DIR [--policy=runs/policy] [--trained=runs/m3,runs/ldpv2] \\
        [--methods=visionzip,random] [--pages=1024]

Every training-free method of token reduction is tried on the dense network, at a half
to a sixteenth of the image's tokens and at the LLM FLOPs of VISOR's budgets; some are
combined with VISOR; networks that were trained with one stand beside them. All answer
the same held-out pages and are timed in turns, at batch sizes of 1 and 32. Several
seeds are given with commas, the same number of all networks.

Each row is written as soon as it is there: a run that is stopped goes on with the same
command. Other rows, pages or seeds are added to what lies in --out.
"""

from absl import flags

from visor_jax.commands import command_line

PAGES = 1024


def define_flags() -> None:
    """Defines the program's flags; not at import, where they would meet others'."""
    flags.DEFINE_list("dense", None, "Dense networks, one of each seed.", required=True)
    flags.DEFINE_list("universal", [], "VISOR, one of each seed; without: no VISOR.")
    flags.DEFINE_list("policy", [], "Policies of these networks: adds VISOR auto.")
    flags.DEFINE_list("trained", [], "Trained with a method: of all seeds, or of some.")
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_integer("pages", PAGES, "Held-out pages; each is asked 10 tasks.")
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")
    flags.DEFINE_list("methods", None, "Some of --reduce's; default: all.")
    flags.DEFINE_list("shares", ["1/2", "1/4", "1/8", "1/16"], "Of the image's tokens.")
    flags.DEFINE_string("budgets", None, "Of VISOR; default: those it was trained for.")
    flags.DEFINE_string(
        "reference",
        None,
        "Budgets of VISOR at whose LLM FLOPs methods are tried, and with which they "
        "are combined; default: no SELF layer, the middle one, all.",
    )
    flags.DEFINE_list(
        "combine", ["visionzip", "vispruner"], "Methods that VISOR is combined with."
    )
    flags.DEFINE_boolean("retime", False, "Measure all times again.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import shlex
import sys
from typing import Any

import numpy as np

from visor_jax.commands.baseline_study import Options, Prepared, prepare
from visor_jax.evals.baselines import report as reports
from visor_jax.evals.baselines.rows import Chosen
from visor_jax.evals.checkpoints import EvaluatedCheckpoint
from visor_jax.evals.policy_choices import policy_logits
from visor_jax.evals.report.report import ReportFacts
from visor_jax.policy.choose import choose
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.runtime.ownership import owned_folder
from visor_jax.runtime.progress import Progress

_REMEDY = "Wait for it, stop it, or give another --out."


def compare_baselines(options: Options, *, command: str = "") -> dict[str, Any]:
    """Returns the content of report.json after measuring what is not there yet.

    Raises:
      ValueError: for anything the user can mend, before any network runs.
      OSError: if the folder cannot be made.
    """
    return run(prepare(options), retime=options.retime, command=command)


def run(
    prepared: Prepared, *, retime: bool = False, command: str = ""
) -> dict[str, Any]:
    """Returns the content of report.json. See `compare_baselines`."""
    study, machine = prepared.study, machine_description()
    asked = len(study.benchmark)
    with owned_folder(study.out, remedy=_REMEDY):
        with Progress(
            asked * len(study.work),
            description="asking",
            unit="answers",
            start=asked * study.done(),
        ) as shown:
            found = reports.outcomes(study, shown.update)
        programs = len(study.comparison.conditions) * len(reports.BATCHES)
        with Progress(
            programs, description="compiling and timing", unit="programs"
        ) as shown:
            taken = reports.times(study, machine, again=retime, progress=shown.update)
        made = ReportFacts(git_commit=git_commit(), machine=machine, command=command)
        return reports.write(
            study,
            found,
            taken,
            made,
            reference=[budget.name for budget in prepared.reference],
            chosen=[_chosen(each, study) for each in prepared.policies],
        )


def _chosen(checkpoint: EvaluatedCheckpoint, study: reports.Study) -> Chosen:
    """Returns what a policy chooses for every question."""
    network = checkpoint.network
    costs = np.array(network.policy.costs)
    logits = policy_logits(network, study.benchmark)
    return Chosen(budgets=network.budgets.budgets, classes=choose(logits, costs, 0.0))


def main(arguments: list[str]) -> None:
    """Writes the report and says where it is."""
    del arguments
    asked = flags.FLAGS
    keep_freed_memory()
    names = [field.name for field in dataclasses.fields(Options)]
    with command_line.user_errors():
        prepared = prepare(Options(**{name: asked[name].value for name in names}))
    given = shlex.join(sys.argv[1:])
    run(prepared, retime=asked.retime, command=f"python -m visor_jax.baselines {given}")
    print(f"report: {prepared.study.out / reports.REPORT_MD}")


if __name__ == "__main__":
    command_line.run(main)
