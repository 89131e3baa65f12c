"""`python -m visor_jax.evaluate`: makes the report of checkpoints from their paths.

    python -m visor_jax.evaluate --checkpoint=runs/universal
    python -m visor_jax.evaluate --checkpoint=runs/u0,runs/u1,runs/dense --out=report

A checkpoint is a workdir, its `checkpoints` folder, or one step. Several are merged:
networks of the same label (seeds) become rows of means, others stand beside them. A
policy's checkpoint adds rows for what it chooses, for chance and for an oracle. All of
them answer the same held-out pages, and their times are measured in turn.
"""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from visor_jax import command_line
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.restore import load_checkpoint, read_metadata
from visor_jax.data.pages.handwriting import split_id
from visor_jax.evals import timing
from visor_jax.evals.evaluation_set import EvaluationSet, check_reads_pages
from visor_jax.evals.harness import BudgetResult, evaluate_budgets
from visor_jax.evals.harness import Progress as Callback
from visor_jax.evals.policy_choices import policy_choices, policy_logits
from visor_jax.evals.policy_rows import PolicyChoices
from visor_jax.evals.report import ReportFacts, check_label, write_report
from visor_jax.evals.rows import EvaluatedRun, RunFacts
from visor_jax.evals.tables import table_text
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import PARAMS, Policy
from visor_jax.training.progress import Progress
from visor_jax.training.run_record import git_commit, machine_description

PAGES = 1024
# Cost preferences at which a policy is tried.
COSTS = (0.0, 5.0, 10.0)

_FACTS = ("preset", "seed", "train_steps", "wall_clock_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    """A network whose checkpoint's description was read and found good.

    policy: label of the policy in the checkpoint; `label` is then its network's.
    described: what the metadata say of it.
    """

    path: str
    label: str
    model: VLM
    budgets: BudgetSet
    facts: RunFacts
    policy: str | None = None
    described: Mapping[str, Any] | None = None


def evaluate_checkpoints(
    paths: Sequence[str],
    *,
    out: str | None = None,
    pages: int = PAGES,
    budgets: str | None = None,
    split: str = "test",
    command: str = "",
    progress: Callback | None = None,
    costs: Sequence[float] = COSTS,
) -> dict[str, Any]:
    """Returns the content of report.json after writing the report of all checkpoints.

    Args:
      paths: workdirs or checkpoints.
      out: folder of the report; None for `<first path>/report`.
      budgets: comma-separated names for the universal networks; None for their own.
      command: that makes the report again, for the record.
      progress: called with (forward passes done, all).
      costs: preferences at which a policy is tried (`policy.choose`).

    Raises:
      ValueError: for anything the user can mend, before any network runs.
      OSError: if the folder cannot be made.
    """
    networks, folder = _prepare(paths, out, pages, budgets, split)
    return _evaluate(networks, folder, pages, split, command, progress, costs)


def _prepare(
    paths: Sequence[str], out: str | None, pages: int, budgets: str | None, split: str
) -> tuple[list[_Network], Path]:
    split_id(split)
    if pages < 1:
        raise ValueError(f"--pages={pages} must be at least 1.")
    if not paths or not all(paths):
        raise ValueError("--checkpoint names no checkpoint: give one or more paths.")
    repeated = sorted({p for p in paths if list(paths).count(p) > 1})
    if repeated:
        raise ValueError(f"Checkpoints {repeated} are given more than once.")
    networks = [_read_network(path, budgets) for path in paths]
    takes = [n for n in networks if n.label == "universal" and n.policy is None]
    if budgets is not None and not takes:
        raise ValueError(
            f"--budgets={budgets} is for universal networks, and there is none here: "
            "leave it out."
        )
    folder = Path(out) if out is not None else Path(paths[0]) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    return networks, folder


def _read_network(path: str, budgets: str | None) -> _Network:
    metadata = read_metadata(path)
    lacking = [k for k in ("model", "budgets", "label", *_FACTS) if k not in metadata]
    if lacking:
        raise ValueError(
            f"{path}: the checkpoint does not say its {', '.join(lacking)}: it was not "
            "written by `python -m visor_jax.train`."
        )
    label, policy = metadata["label"], None
    if metadata.get("policy") is not None:
        label, policy = "universal", label
    names = metadata["budgets"]
    # A policy knows the budgets that it was trained for.
    if budgets is not None and label == "universal" and policy is None:
        # "sa2:1,5" has a comma of its own; names begin with a letter.
        names = re.split(r",(?=[a-z])", budgets)
    try:
        check_label(label)
        config = VLMConfig.from_dict(metadata["model"])
        check_reads_pages(config, metadata["preset"])
        budget_set = BudgetSet.parse(names, config.plan)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _Network(
        path=path,
        label=label,
        model=VLM(config),
        budgets=budget_set,
        facts=RunFacts(
            checkpoint=path,
            git_commit=metadata.get("git_commit", "unknown"),
            **{name: metadata[name] for name in _FACTS},
        ),
        policy=policy,
        described=metadata.get("policy"),
    )


def _evaluate(
    networks: Sequence[_Network],
    out: Path,
    pages: int,
    split: str,
    command: str,
    progress: Callback | None,
    costs: Sequence[float] = COSTS,
) -> dict[str, Any]:
    evaluation_set = EvaluationSet.make(pages, split=split)
    passes = [len(n.budgets) * evaluation_set.num_batches for n in networks]
    runs, programs = [], {}
    for i, network in enumerate(networks):
        params = _load(network)
        before = sum(passes[:i])
        results = evaluate_budgets(
            network.model,
            params,
            network.budgets,
            evaluation_set,
            progress=_shifted(progress, before, sum(passes)),
        )
        calls = timing.budget_programs(
            network.model, params, network.budgets, evaluation_set
        )
        programs |= {(i, name): call for name, call in calls.items()}
        chosen = _choices(network, params, results, evaluation_set, costs)
        runs.append((network, tuple(results), chosen))
    seconds = timing.time_programs(programs)
    evaluated = [
        EvaluatedRun(
            label=network.label,
            facts=network.facts,
            config=network.model.config,
            results=results,
            ms_per_sample={
                name: 1e3 * seconds[i, name] / timing.BATCH
                for name in network.budgets.names
            },
            policy=chosen,
        )
        for i, (network, results, chosen) in enumerate(runs)
    ]
    made = ReportFacts(
        git_commit=git_commit(), machine=machine_description(), command=command
    )
    return write_report(evaluated, evaluation_set, made, out)


def _choices(
    network: _Network,
    params: Any,
    results: Sequence[BudgetResult],
    evaluation_set: EvaluationSet,
    costs: Sequence[float],
) -> PolicyChoices | None:
    """Returns what the checkpoint's policy chooses; None if it has none."""
    if network.policy is None:
        return None
    policy = Policy.of(network.described, params[PARAMS], network.budgets.names)
    logits = policy_logits(network.model, params, policy, evaluation_set)
    return policy_choices(network.policy, logits, policy, results, costs)


def _load(network: _Network) -> Any:
    """Returns the parameters as this process's first device holds them."""
    return jax.device_put(load_checkpoint(network.path).params)


def _shifted(progress: Callback | None, before: int, total: int) -> Callback | None:
    if progress is None:
        return None
    shown: Callable[[int, int], None] = progress
    return lambda done, _: shown(before + done, total)


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
        "Budgets of universal networks, such as 'none,sa2:1,5,all' or 'every'; "
        "default: those they were trained with.",
    )
    flags.DEFINE_list(
        "cost", [str(cost) for cost in COSTS], "Of a policy: above 0 is cheaper."
    )
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")


def _numbers(texts: Sequence[str]) -> list[float]:
    try:
        costs = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"--cost={','.join(texts)}: {error}.") from error
    if not costs or len(set(costs)) < len(costs) or not np.isfinite(costs).all():
        raise ValueError(f"--cost={','.join(texts)}: give different finite numbers.")
    return costs


def main(argv: Sequence[str]) -> None:
    asked = flags.FLAGS
    with command_line.user_errors():
        costs = _numbers(asked.cost)
        networks, out = _prepare(
            asked.checkpoint, asked.out, asked.pages, asked.budgets, asked.split
        )
        # Files that were cut short show here, before anything runs.
        for network in networks:
            _load(network)
    total = sum(len(n.budgets) for n in networks) * asked.pages
    arguments = shlex.join(sys.argv[1:])
    with Progress(total, description="evaluating", unit="pages") as shown:
        report = _evaluate(
            networks,
            out,
            asked.pages,
            asked.split,
            f"python -m visor_jax.evaluate {arguments}",
            lambda done, passes: shown.update(done * total // passes),
            costs,
        )
    print(table_text(report["rows"]))
    print(f"\nreport: {out / 'report.md'}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
