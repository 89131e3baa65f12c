"""`python -m visor_jax.sweep`: finds the budgets of a trained network that pay.

    python -m visor_jax.sweep --checkpoint=runs/universal [--limit=256]

Evaluates subsets of the SELF layers (all of them when there are at most `--limit`) on
pages that were not trained on, writes the viable ones to `<checkpoint>/budgets/` with a
heat map, and prints them. Configurations read them by that name:

    python -m visor_jax.train --config=configs/universal.py \\
        --config.budgets="('@runs/universal/budgets/viable.json',)"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from visor_jax.analysis.budget_sweep import (
    ScoredBudget,
    Sweep,
    check_search,
    sweep,
    write_budget_file,
)
from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints.stored_network import (
    StoredNetwork,
    newest_network,
    read_newest,
)
from visor_jax.commands import command_line
from visor_jax.evals.harness import BudgetResult, evaluate_budgets
from visor_jax.evals.pages.benchmark import GROUPS, EvaluationSet, check_reads_pages
from visor_jax.evals.report.pictures import tasks_by_budget
from visor_jax.evals.report.rows import PromptLengths
from visor_jax.evals.statistics import group_score
from visor_jax.flops.account import account
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.runtime.progress import Progress


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_string("name", "viable", "Of the file that is written.")
    flags.DEFINE_string("out", None, "Folder; default: <checkpoint>/budgets.")
    flags.DEFINE_integer("limit", 256, "Evaluate at most so many budgets.")
    flags.DEFINE_integer("pages", 512, "Pages; each is asked 10 tasks.")
    flags.DEFINE_string("split", "policy", "Handwriting: train, policy or test.")
    flags.DEFINE_float(
        "margin", 0.005, "Share of answers by which a dearer budget must be better."
    )


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
    stored = newest_network(checkpoint)
    config = stored.config
    check_reads_pages(config, stored.metadata.get("preset", "unknown"))
    check_search(config.plan, limit)
    folder = Path(out) if out is not None else Path(checkpoint) / "budgets"
    folder.mkdir(parents=True, exist_ok=True)
    asked = EvaluationSet.make(pages, split=split)
    model, params = VLM(config), read_newest(checkpoint, StoredNetwork.read_params)
    lengths = PromptLengths.of(asked)
    results: dict[Budget, BudgetResult] = {}

    def evaluate(budgets: Sequence[Budget]) -> list[ScoredBudget]:
        chosen = BudgetSet(config.plan, tuple(budgets))
        total = len(chosen) * asked.num_batches
        with Progress(total, description="evaluating", unit="batches") as shown:
            found = evaluate_budgets(
                model, params, chosen, asked, progress=lambda n, _: shown.update(n)
            )
        results.update({result.budget: result for result in found})
        return [_scored(config, result, lengths) for result in found]

    done = sweep(config.plan, evaluate, limit=limit, margin=margin)
    file = folder / f"{name}.json"
    facts = {"checkpoint": checkpoint, "split": split, "pages": pages}
    write_budget_file(file, name, done, **facts)
    by_cost = sorted(done.scored, key=lambda each: each.cost)
    tasks_by_budget(
        [_row(results[each.budget]) for each in by_cost], folder / f"{name}.png"
    )
    return done, file


def _scored(
    config: VLMConfig, result: BudgetResult, lengths: PromptLengths
) -> ScoredBudget:
    groups = {
        group: group_score(
            result.correct[:, [result.task_names.index(name) for name in names]]
        ).value
        for group, names in GROUPS.items()
    }
    cost = account(
        config,
        result.budget,
        text_tokens=lengths.text_tokens,
        image_tokens=lengths.image_tokens,
        crops=lengths.crops,
        logit_positions=1,
    )
    return ScoredBudget(
        budget=result.budget,
        cost=cost.llm_prefill,
        score=sum(groups.values()) / len(groups),
        details={**groups, "tasks": result.accuracy},
    )


def _row(result: BudgetResult) -> dict[str, Any]:
    return {
        "model": "universal",
        "budget": result.budget.name,
        "tasks": result.accuracy,
    }


def main(arguments: list[str]) -> None:
    """Sweeps the checkpoint that the flags name."""
    del arguments
    asked = flags.FLAGS
    with command_line.user_errors():
        done, file = sweep_checkpoint(
            asked.checkpoint,
            out=asked.out,
            name=asked.name,
            limit=asked.limit,
            pages=asked.pages,
            split=asked.split,
            margin=asked.margin,
        )
    dearest = max(each.cost for each in done.scored)
    viable = {each.budget for each in done.viable}
    print(f"{len(done.scored)} of {done.possible} budgets; viable ones with *")
    for each in sorted(done.scored, key=lambda each: each.cost):
        mark = "*" if each.budget in viable else " "
        groups = "  ".join(f"{g} {100 * each.details[g]:5.1f} %" for g in GROUPS)
        cost = f"cost {100 * each.cost / dearest:5.1f} %"
        print(f"{mark} {each.budget.name:16} {cost}  {groups}")
    print(f"\nbudgets: {file}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
