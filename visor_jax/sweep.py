"""`python -m visor_jax.sweep`: finds the budgets of a trained network that pay.

    python -m visor_jax.sweep --checkpoint=runs/universal [--limit=256]

Evaluates subsets of the SELF layers (all of them when there are at most `--limit`) on
pages that were not trained on, writes the viable ones to `<checkpoint>/budgets/` with a
heat map, and prints them. Configurations read them by that name:

    python -m visor_jax.train --config=configs/universal.py \\
        --config.budgets="('@runs/universal/budgets/viable.json',)"

A network that was trained for no budgets, a LLaVA-OneVision of Hugging Face as it is,
has some too: layers in which text only reads the image, or does without. They are found
on a few prompts by how little they change its next token:

    python -m visor_jax.sweep --checkpoint=PATH_OR_ID --out=DIR --calibrate=FILE
    python -m visor_jax.generate --checkpoint=PATH_OR_ID \\
        --budget=@DIR/calibrated.json:0.5 --image=photo.jpg --prompt="What is it?"

FILE holds requests as those of `visor_jax.answer`; "pages" are those of the benchmark.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_string("name", None, "Of the file; else 'viable' or 'calibrated'.")
    flags.DEFINE_string("out", None, "Folder; default: <checkpoint>/budgets.")
    flags.DEFINE_integer("limit", 256, "Evaluate at most so many budgets.")
    flags.DEFINE_string(
        "calibrate", None, "Without training: requests (JSON lines), or 'pages'."
    )
    flags.DEFINE_integer(
        "prompts", 128, "With --calibrate: at most so many.", lower_bound=1
    )
    flags.DEFINE_integer("pages", 512, "Pages; each is asked 10 tasks.")
    flags.DEFINE_string("split", "policy", "Handwriting: train, policy or test.")
    flags.DEFINE_float(
        "margin",
        0.005,
        "Share of answers, or nats, by which a dearer budget must be better.",
    )


if __name__ == "__main__":
    command_line.begin(define_flags)

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visor_jax.analysis.budget_sweep import (
    ScoredBudget,
    Sweep,
    check_search,
    sweep,
    write_budget_file,
)
from visor_jax.analysis.calibrated_budgets import calibrate
from visor_jax.analysis.layer_lowering import check_lowering
from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.commands.calibration_prompts import (
    calibration_prompts,
    calibration_samples,
)
from visor_jax.evals.harness import predict
from visor_jax.evals.pages.benchmark import GROUPS, PageBenchmark, check_reads_pages
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report import style
from visor_jax.evals.report.pictures import tasks_by_budget
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.open_network import open_network
from visor_jax.runtime import output_place
from visor_jax.runtime.ownership import owned_file
from visor_jax.runtime.progress import Progress

# Where another process writes the same file.
_REMEDY = "Wait for it, stop it, or give another --name or --out."


def sweep_checkpoint(
    checkpoint: str,
    *,
    out: str | None = None,
    name: str = "viable",
    limit: int = 256,
    pages: int = 512,
    split: str = "policy",
    margin: float = 0.005,
) -> tuple[Sweep, Path]:
    """Returns the sweep of a trained network and the file that was written.

    The score is the mean of the easy and the hard tasks' accuracy; the cost, the LLM's
    prefill FLOPs of one question.

    Raises:
      ValueError: for paths that are no checkpoint, networks that do not read pages,
        unknown splits or a wrong limit; before any network runs.
      OSError: if the folder cannot be made.
    """
    network, benchmark, folder = _prepare(checkpoint, out, limit, pages, split)
    file = folder / f"{name}.json"
    return _sweep(network, benchmark, file, checkpoint, limit, margin), file


def _prepare(
    checkpoint: str, out: str | None, limit: int, pages: int, split: str
) -> tuple[Network, PageBenchmark, Path]:
    """Returns the network, what it is asked, and the folder of the file."""
    folder = _folder(checkpoint, out)
    try:
        stored = newest_network(checkpoint)
        check_reads_pages(stored.config, stored.metadata)
    except ValueError as error:
        raise ValueError(f"{error} For any other: --calibrate=REQUESTS.") from error
    check_search(stored.config.plan, limit)
    output_place.check_folder(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = PageBenchmark.make(pages, split=split)
    return open_network(checkpoint), benchmark, folder


def _sweep(
    network: Network,
    benchmark: PageBenchmark,
    file: Path,
    checkpoint: str,
    limit: int,
    margin: float,
) -> Sweep:
    """Returns the sweep after writing it to the file, and a picture beside it."""
    plan = network.config.plan

    def evaluate(budgets: Sequence[Budget]) -> list[ScoredBudget]:
        chosen = BudgetSet(plan, tuple(budgets))
        total = len(chosen) * len(benchmark)
        with Progress(total, description="evaluating", unit="answers") as shown:
            found = predict(
                network, benchmark, chosen, progress=lambda n, _: shown.update(n)
            )
        return [_scored(found, budget) for budget in chosen]

    with owned_file(file, remedy=_REMEDY):
        done = sweep(plan, evaluate, limit=limit, margin=margin)
        facts = {"split": benchmark.split, "pages": len(benchmark.pool)}
        write_budget_file(file, file.stem, done, checkpoint=checkpoint, **facts)
        by_cost = sorted(done.scored, key=lambda each: each.cost)
        picture = tasks_by_budget([_row(each) for each in by_cost], GROUPS)
        style.save(picture, file.with_suffix(".png"))
    return done


def calibrate_checkpoint(
    checkpoint: str,
    data: str,
    *,
    out: str | None = None,
    name: str = "calibrated",
    limit: int = 256,
    prompts: int = 128,
    split: str = "policy",
    margin: float = 0.005,
) -> tuple[Sweep, Path]:
    """Returns the budgets of a network that was trained for none, and their file.

    Args:
      checkpoint: path or id, ours or Hugging Face's.
      data: file of requests, or "pages".
      margin: nats by which a dearer budget must be closer to everything on.

    Raises:
      ValueError: for what is no checkpoint, requests that cannot be read, a wrong
        limit, or measurements with other settings under this name.
      OSError: if the folder cannot be made, or the file of requests not be read.
    """
    if out is None and not Path(checkpoint).is_dir():
        raise ValueError(f"{checkpoint} is no folder to write budgets to: give --out.")
    folder = _folder(checkpoint, out)
    output_place.check_folder(folder, "--out")
    network = open_network(checkpoint)
    check_lowering(network.config.plan, limit)
    requests, facts = calibration_prompts(network, data, prompts, split)
    samples = calibration_samples(network, data, requests)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    with (
        owned_file(file, remedy=_REMEDY),
        Progress(limit, description="measuring", unit="budgets") as shown,
    ):
        done = calibrate(
            network,
            samples,
            file,
            limit=limit,
            margin=margin,
            facts={"checkpoint": checkpoint, **facts},
            progress=shown.update,
        )
    return done, file


def _folder(checkpoint: str, out: str | None) -> Path:
    """Returns the folder of the file. Raises ValueError for a remote one."""
    layout.check_local(checkpoint if out is None else out, "--out")
    return Path(out) if out is not None else Path(checkpoint) / "budgets"


def _scored(found: Predictions, budget: Budget) -> ScoredBudget:
    scores = {name: score.value for name, score in found.scores_at(budget).items()}
    groups = {group: scores[group] for group in found.groups}
    return ScoredBudget(
        budget=budget,
        cost=found.mean_flops(budget)["llm_prefill"],
        score=sum(groups.values()) / len(groups),
        details={**groups, "tasks": {task: scores[task] for task in found.tasks}},
    )


def _row(scored: ScoredBudget) -> dict[str, Any]:
    tasks = scored.details["tasks"]
    return {"model": "universal", "budget": scored.budget.name, "tasks": tasks}


def main(arguments: list[str]) -> None:
    """Sweeps the checkpoint that the flags name."""
    del arguments
    asked = flags.FLAGS
    with command_line.user_errors():
        _check_unread(asked)
    if asked.calibrate is not None:
        _main_calibrate(asked)
        return
    with command_line.user_errors():
        network, benchmark, folder = _prepare(
            asked.checkpoint, asked.out, asked.limit, asked.pages, asked.split
        )
    file = folder / f"{asked.name or 'viable'}.json"
    done = _sweep(network, benchmark, file, asked.checkpoint, asked.limit, asked.margin)

    def shown(each: ScoredBudget) -> str:
        return "  ".join(f"{g} {100 * each.details[g]:5.1f} %" for g in GROUPS)

    _print(done, file, done.scored, shown)


def _check_unread(asked: Any) -> None:
    """Raises ValueError if a flag was given that nothing would read."""
    if asked.calibrate is None:
        unread, where = ("prompts",), "without --calibrate"
    elif asked.calibrate == "pages":
        unread, where = ("pages",), "with --calibrate: --prompts says how many"
    else:
        unread, where = ("pages", "split"), f"with --calibrate={asked.calibrate}"
    given = [f"--{name}" for name in unread if asked[name].present]
    if given:
        raise ValueError(f"{', '.join(given)} would change nothing {where}. Leave out.")


def _main_calibrate(asked: Any) -> None:
    with command_line.user_errors():
        done, file = calibrate_checkpoint(
            asked.checkpoint,
            asked.calibrate,
            out=asked.out,
            name=asked.name or "calibrated",
            limit=asked.limit,
            prompts=asked.prompts,
            split=asked.split,
            margin=asked.margin,
        )
    _print(
        done, file, done.viable, lambda each: f"{each.details['divergence']:.4f} nats"
    )


def _print(
    done: Sweep,
    file: Path,
    listed: Sequence[ScoredBudget],
    shown: Callable[[ScoredBudget], str],
) -> None:
    dearest = max(each.cost for each in done.scored)
    viable = {each.budget for each in done.viable}
    print(f"{len(done.scored)} of {done.possible} budgets; viable ones with *")
    for each in sorted(listed, key=lambda each: each.cost):
        mark = "*" if each.budget in viable else " "
        cost = f"cost {100 * each.cost / dearest:5.1f} %"
        print(f"{mark} {each.budget.name:16} {cost}  {shown(each)}")
    print(f"\nbudgets: {file}")


if __name__ == "__main__":
    command_line.run(main)
