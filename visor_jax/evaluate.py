"""`python -m visor_jax.evaluate`: makes the report of checkpoints from their paths.

    python -m visor_jax.evaluate --checkpoint=runs/universal
    python -m visor_jax.evaluate --checkpoint=runs/u0,runs/u1,runs/dense --out=report

A checkpoint is a workdir, its `checkpoints` folder, or one step. Several are merged:
networks of the same label that differ in their seed alone become rows of means, others
stand beside them. A policy's checkpoint adds rows for what it chooses, for chance and
for an oracle. All of them answer the same held-out pages, and their times are measured
in turn.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.restore import load_checkpoint, read_metadata
from visor_jax.commands import command_line
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.evals.checkpoints import Member, Network, check_members
from visor_jax.evals.harness import Progress as Callback
from visor_jax.evals.networks import evaluate_networks, num_passes
from visor_jax.evals.pages.benchmark import EvaluationSet, check_reads_pages
from visor_jax.evals.report.report import (
    ReportFacts,
    check_label,
    check_policy_label,
    write_report,
)
from visor_jax.evals.report.rows import RunFacts
from visor_jax.evals.report.tables import table_text
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import PARAMS, Policy
from visor_jax.policy.score_cache import digest_of_arrays
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.runtime.progress import Progress

PAGES = 1024
# Cost preferences at which a policy is tried.
COSTS = (0.0, 5.0, 10.0)

_FACTS = ("preset", "seed", "train_steps", "wall_clock_s")
# What runs of different seeds must have in common to be averaged; "settings" are those
# of training, where the checkpoint says them.
_RECIPE = ("model", "budgets", "preset", "train_steps", "settings", "policy")


def evaluate_checkpoints(
    paths: Sequence[str],
    *,
    out: str | None = None,
    pages: int = PAGES,
    budgets: str | None = None,
    split: str = "test",
    command: str = "",
    progress: Callback | None = None,
    costs: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Returns the content of report.json after writing the report of all checkpoints.

    Args:
      paths: workdirs or checkpoints.
      out: folder of the report; None for `<first path>/report`.
      budgets: comma-separated names for the universal networks; None for their own.
      command: that makes the report again, for the record.
      progress: called with (forward passes done, all).
      costs: preferences at which policies are tried (`policy.choose`); None for 0, 5
        and 10.

    Raises:
      ValueError: for anything the user can mend, before any network runs.
      OSError: if the folder cannot be made.
    """
    networks, folder = _prepare(paths, out, pages, budgets, split, costs)
    return _evaluate(networks, folder, pages, split, command, progress, costs)


def _prepare(
    paths: Sequence[str],
    out: str | None,
    pages: int,
    budgets: str | None,
    split: str,
    costs: Sequence[float] | None,
) -> tuple[list[Network], Path]:
    """Returns the networks, each read once, and the folder of the report."""
    split_id(split)
    if pages < 1:
        raise ValueError(f"--pages={pages} must be at least 1.")
    if not paths or not all(paths):
        raise ValueError("--checkpoint names no checkpoint: give one or more paths.")
    repeated = sorted({p for p in paths if list(paths).count(p) > 1})
    if repeated:
        raise ValueError(f"Checkpoints {repeated} are given more than once.")
    described = [read_metadata(path) for path in paths]
    for path, metadata in zip(paths, described, strict=True):
        _check(path, metadata, budgets)
    _check_options(described, budgets, costs)
    folder = Path(out) if out is not None else Path(paths[0]) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    networks = [_read(path, budgets) for path in paths]
    check_members([network.member for network in networks])
    return networks, folder


def _check_options(
    described: Sequence[Mapping[str, Any]],
    budgets: str | None,
    costs: Sequence[float] | None,
) -> None:
    """Raises ValueError for options that no checkpoint can do anything with."""
    if budgets is not None and not any(map(_takes_budgets, described)):
        raise ValueError(
            f"--budgets={budgets} is for universal networks, and there is none here: "
            "leave it out."
        )
    if costs is not None and not any(each.get("policy") for each in described):
        raise ValueError(
            f"--cost={','.join(f'{cost:g}' for cost in costs)} is for policies, and "
            "there is none here: leave it out, or add the checkpoint of one "
            "(configs/policy.py)."
        )


def _takes_budgets(metadata: Mapping[str, Any]) -> bool:
    # A policy knows the budgets that it was trained for.
    return metadata["label"] == "universal" and not metadata.get("policy")


def _check(
    path: str, metadata: Mapping[str, Any], budgets: str | None
) -> tuple[VLMConfig, BudgetSet]:
    """Returns the sizes of a checkpoint's network and the budgets to try it at."""
    lacking = [k for k in ("model", "budgets", "label", *_FACTS) if k not in metadata]
    if lacking:
        raise ValueError(
            f"{path}: the checkpoint does not say its {', '.join(lacking)}: it was not "
            "written by `python -m visor_jax.train`."
        )
    names = metadata["budgets"]
    if budgets is not None and _takes_budgets(metadata):
        names = budgets
    try:
        check = check_policy_label if metadata.get("policy") else check_label
        check(metadata["label"])
        config = VLMConfig.from_dict(metadata["model"])
        check_reads_pages(config, metadata["preset"])
        return config, BudgetSet.parse(names, config.plan)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: str, budgets: str | None) -> Network:
    """Returns what a checkpoint holds, description and parameters of the same step."""
    found = load_checkpoint(path)
    metadata, params = found.metadata, dict(found.params)
    config, budget_set = _check(path, metadata, budgets)
    described, policy = metadata.get("policy"), None
    if described:
        policy = Policy.of(described, params.pop(PARAMS), budget_set.names)
    params = {k: v for k, v in params.items() if not k.startswith("reading_heads")}
    return Network(
        member=Member(
            path=path,
            label=metadata["label"] if policy is None else "universal",
            seed=metadata["seed"],
            network=digest_of_arrays(params),
            recipe={key: metadata.get(key) for key in _RECIPE},
            policy=None if policy is None else metadata["label"],
        ),
        model=VLM(config),
        params=params,
        budgets=budget_set,
        facts=RunFacts(
            checkpoint=path,
            git_commit=metadata.get("git_commit", "unknown"),
            **{name: metadata[name] for name in _FACTS},
        ),
        policy=policy,
    )


def _evaluate(
    networks: Sequence[Network],
    out: Path,
    pages: int,
    split: str,
    command: str,
    progress: Callback | None,
    costs: Sequence[float] | None,
) -> dict[str, Any]:
    evaluation_set = EvaluationSet.make(pages, split=split)
    costs = COSTS if costs is None else costs
    evaluated = evaluate_networks(
        networks, evaluation_set, costs=costs, progress=progress
    )
    made = ReportFacts(
        git_commit=git_commit(), machine=machine_description(), command=command
    )
    return write_report(evaluated, evaluation_set, made, out)


def define_flags() -> None:
    """Defines the program's flags; not at import, where they would meet others'."""
    flags.DEFINE_list(
        "checkpoint",
        None,
        "Workdirs or checkpoints, separated by commas.",
        required=True,
    )
    flags.DEFINE_string(
        "out", None, "Folder of the report; default: <first checkpoint>/report."
    )
    flags.DEFINE_integer("pages", PAGES, "Held-out pages; each is asked 10 tasks.")
    flags.DEFINE_string(
        "budgets",
        None,
        "Budgets of universal networks, such as 'none,sa2:1,5,all', 'every' or '@FILE' "
        "of a sweep; "
        "default: those they were trained with.",
    )
    flags.DEFINE_list(
        "cost", None, "Of policies: above 0 is cheaper; default: 0, 5 and 10."
    )
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")


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
    with command_line.user_errors():
        costs = _numbers(asked.cost)
        networks, out = _prepare(
            asked.checkpoint, asked.out, asked.pages, asked.budgets, asked.split, costs
        )
    total = num_passes(networks) * asked.pages
    given = shlex.join(sys.argv[1:])
    with Progress(total, description="evaluating", unit="pages") as shown:
        report = _evaluate(
            networks,
            out,
            asked.pages,
            asked.split,
            f"python -m visor_jax.evaluate {given}",
            lambda done, passes: shown.update(done * total // passes),
            costs,
        )
    print(table_text(report["rows"]))
    print(f"\nreport: {out / 'report.md'}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
