"""`python -m visor_jax.evaluate`: makes the report of checkpoints from their paths.

    python -m visor_jax.evaluate --checkpoint=runs/universal
    python -m visor_jax.evaluate --checkpoint=runs/u0,runs/u1,runs/dense --out=report

A checkpoint is a workdir, its `checkpoints` folder, or one step. Several are merged:
networks of the same label (seeds) become rows of means, others stand beside them. All
of them answer the same held-out pages, and their times are measured in turn.
"""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from visor_jax import command_line
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.restore import load_checkpoint, read_metadata
from visor_jax.data.pages.drawing import IMAGE_SIZE
from visor_jax.data.pages.handwriting import split_id
from visor_jax.evals import timing
from visor_jax.evals.evaluation_set import EvaluationSet
from visor_jax.evals.harness import BudgetResult, evaluate_budgets
from visor_jax.evals.harness import Progress as Callback
from visor_jax.evals.report import ReportFacts, check_label, write_report
from visor_jax.evals.rows import EvaluatedRun, RunFacts
from visor_jax.evals.tables import table_text
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.training.progress import Progress
from visor_jax.training.run_record import git_commit, machine_description

PAGES = 1024

_FACTS = ("preset", "seed", "train_steps", "wall_clock_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    """A network whose checkpoint's description was read and found good."""

    path: str
    label: str
    model: VLM
    budgets: BudgetSet
    facts: RunFacts


def evaluate_checkpoints(
    paths: Sequence[str],
    *,
    out: str | None = None,
    pages: int = PAGES,
    budgets: str | None = None,
    split: str = "test",
    command: str = "",
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Returns the content of report.json after writing the report of all checkpoints.

    Args:
      paths: workdirs or checkpoints.
      out: folder of the report; None for `<first path>/report`.
      budgets: comma-separated names for the universal networks; None for their own.
      command: that makes the report again, for the record.
      progress: called with (forward passes done, all).

    Raises:
      ValueError: for anything the user can mend, before any network runs.
      OSError: if the folder cannot be made.
    """
    networks, folder = _prepare(paths, out, pages, budgets, split)
    return _evaluate(networks, folder, pages, split, command, progress)


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
    if budgets is not None and not any(n.label == "universal" for n in networks):
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
    label = metadata["label"]
    names = metadata["budgets"]
    if budgets is not None and label == "universal":
        # "sa2:1,5" has a comma of its own; names begin with a letter.
        names = re.split(r",(?=[a-z])", budgets)
    try:
        check_label(label)
        config = VLMConfig.from_dict(metadata["model"])
        _check_embedded(config, metadata["preset"])
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
    )


def _check_embedded(config: VLMConfig, preset: str) -> None:
    if config.vision.image_size != IMAGE_SIZE:
        raise ValueError(
            f"a network of preset {preset!r} for {config.vision.image_size}-pixel "
            f"images cannot answer the embedded benchmark ({IMAGE_SIZE} pixels); only "
            "preset 'mini' can so far."
        )


def _evaluate(
    networks: Sequence[_Network],
    out: Path,
    pages: int,
    split: str,
    command: str,
    progress: Callback | None,
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
        runs.append((network, tuple(results)))
    seconds = timing.time_programs(programs)
    evaluated = []
    for i, (network, results) in enumerate(runs):
        times = {name: seconds[i, name] for name in network.budgets.names}
        evaluated.append(_evaluated(network, results, times))
    made = ReportFacts(
        git_commit=git_commit(), machine=machine_description(), command=command
    )
    return write_report(evaluated, evaluation_set, made, out)


def _evaluated(
    network: _Network, results: tuple[BudgetResult, ...], seconds: dict[str, float]
) -> EvaluatedRun:
    return EvaluatedRun(
        label=network.label,
        facts=network.facts,
        config=network.model.config,
        results=results,
        ms_per_sample={n: 1e3 * each / timing.BATCH for n, each in seconds.items()},
    )


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
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")


def main(argv: Sequence[str]) -> None:
    asked = flags.FLAGS
    with command_line.user_errors():
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
        )
    print(table_text(report["rows"]))
    print(f"\nreport: {out / 'report.md'}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
