"""`python -m visor_jax.analyse`: draws what a network does with its image, and where.

    python -m visor_jax.analyse --checkpoint=runs/universal --benchmarks=pages
    python -m visor_jax.analyse --checkpoint=PATH_OR_ID --benchmarks=docvqa,gqa \\
        --data=FOLDER --figures=attention,cka --out=DIR

Figures: `attention` (the image's share of text's attention, layer by layer), `cka` (how
much the image's states change), `drop` (the score when layers do without the image),
`contribution` (how far freezing the image in one layer moves the next token) and
`budgets` (kinds of questions by budgets; cost, time, the cheapest right one). Each is
an SVG in --out, and all numbers are in analysis.json there. "pages" are the drawn pages
of the embedded benchmark; other benchmarks are those of
`python -m visor_jax.evaluate --list_benchmarks`, their files in --data.
"""

from absl import flags

from visor_jax.commands import command_line

# Of what is drawn unless told.
_FIGURES = ("attention", "cka", "drop", "contribution", "budgets")
_PAGES = "pages"


def define_flags() -> None:
    """Declares the program's flags."""
    flags.DEFINE_string("checkpoint", None, "Checkpoint or Hub id.", required=True)
    flags.DEFINE_list("benchmarks", [_PAGES], "To ask: pages, docvqa, pope, ...")
    flags.DEFINE_list("figures", list(_FIGURES), "To draw.")
    flags.DEFINE_string("data", None, "Folder of the benchmarks' files.")
    flags.DEFINE_string("out", None, "Folder; default: <checkpoint>/analysis.")
    flags.DEFINE_string("budget", None, "Of all but `budgets`; default: the largest.")
    flags.DEFINE_string(
        "budgets", None, "Of the figure `budgets`; default: the network's own."
    )
    flags.DEFINE_integer(
        "limit",
        200,
        "So many questions of each; pages and pictures are whole, pictures are spread "
        "evenly over all.",
        lower_bound=1,
    )
    flags.DEFINE_string("split", "test", "Of pages: train, policy or test.")
    flags.DEFINE_integer("rows", 8, "Prompts read at once.", lower_bound=1)


if __name__ == "__main__":
    command_line.begin(define_flags)

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.analysis.figures.registry import FIGURES, check_names
from visor_jax.analysis.study import Study
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.benchmarks.registry import BENCHMARKS, definition_of
from visor_jax.evals.pages.benchmark import PageBenchmark, check_reads_pages
from visor_jax.evals.report import style
from visor_jax.evals.tables import limit
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.open_network import open_network
from visor_jax.inference.loading.reads_pages import reads_pages
from visor_jax.runtime import atomic_write, output_place
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.runtime.ownership import owned_folder

_REMEDY = "Wait for it, stop it, or give another --out."
NUMBERS = "analysis.json"


def analyse(
    network: Network,
    benchmarks: Sequence[Benchmark],
    figures: Sequence[str],
    out: Path,
    *,
    budget: str | None = None,
    budgets: str | None = None,
    rows: int = 8,
    facts: Mapping[str, Any] | None = None,
    say: Any = lambda line: None,
) -> dict[str, Any]:
    """Returns the content of analysis.json after writing it and the figures.

    Args:
      figures: names in `FIGURES`. budget: of all but the heat map of budgets.
      budgets: of that one; names separated by commas.
      rows: prompts at once. facts: how it came about. say: told what is done next.

    Raises:
      ValueError: for a budget that the network lacks, or questions that cannot be read.
    """
    plan = network.config.plan
    studies = {
        each.name: Study(
            network=network,
            benchmark=each,
            budget=network.budgets.of_plan(budget),
            budgets=() if budgets is None else BudgetSet.parse(budgets, plan).budgets,
            batch_size=rows,
        )
        for each in benchmarks
    }
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        **(facts or {}),
        "network": network.fingerprint,
        "budget": network.budgets.of_plan(budget).name,
        "benchmarks": {
            name: {**study.benchmark.identity(), "errors": study.errors}
            for name, study in studies.items()
        },
        "figures": {},
    }
    for name in figures:
        found: dict[str, Any] = {}
        for benchmark, study in studies.items():
            say(f"{name}: {benchmark}")
            found[benchmark] = FIGURES[name].content(study)
        style.save_svg(FIGURES[name].draw(found), out / f"{name}.svg")
        numbers["figures"][name] = found
        # What is measured is kept, whatever becomes of the figures behind it.
        atomic_write.write_json(out / NUMBERS, numbers)
    return numbers


def _prepare(asked: Any) -> tuple[Network, list[Benchmark], Path]:
    """Returns the network, what it is asked, and the folder; cheap checks first."""
    check_names(asked.figures, list(FIGURES), "figures")
    check_names(asked.benchmarks, [_PAGES, *BENCHMARKS], "benchmarks")
    split_id(asked.split)
    others = [name for name in asked.benchmarks if name != _PAGES]
    if others and asked.data is None:
        raise ValueError(f"{', '.join(others)} need their files: give --data=FOLDER.")
    out = _folder(asked)
    output_place.check_folder(out, "--out")
    _check_stored(asked)
    benchmarks = [_opened(name, asked) for name in asked.benchmarks]
    network = open_network(asked.checkpoint)
    _check_budgets(network.budgets, asked)
    if _PAGES in asked.benchmarks:
        check_reads_pages(network.config, network.metadata)
    elif reads_pages(network.config, network.metadata):
        raise ValueError(
            f"{asked.checkpoint} reads the words of drawn pages alone: give "
            "--benchmarks=pages."
        )
    return network, benchmarks, out


def _folder(asked: Any) -> Path:
    if asked.out is None and not Path(asked.checkpoint).is_dir():
        raise ValueError(f"{asked.checkpoint} is no folder to write to: give --out.")
    layout.check_local(asked.checkpoint if asked.out is None else asked.out, "--out")
    out = asked.out
    return Path(asked.checkpoint) / "analysis" if out is None else Path(out)


def _check_stored(asked: Any) -> None:
    """Checks what one of our checkpoints says of itself; of others nothing is known."""
    try:
        stored = newest_network(asked.checkpoint)
    except ValueError:
        return
    _check_budgets(stored.budgets, asked)
    if _PAGES in asked.benchmarks:
        check_reads_pages(stored.config, stored.metadata)


def _check_budgets(budgets: BudgetSet, asked: Any) -> None:
    budgets.of_plan(asked.budget)
    if asked.budgets is not None:
        BudgetSet.parse(asked.budgets, budgets.plan)


def _opened(name: str, asked: Any) -> Benchmark:
    if name == _PAGES:
        pages = -(-asked.limit // len(TASK_NAMES))
        return PageBenchmark.make(pages, split=asked.split)
    definition = definition_of(name)
    return TableBenchmark.open(definition, Path(asked.data), limit=asked.limit)


def main(arguments: list[str]) -> None:
    """Writes the figures that the flags ask for."""
    del arguments
    asked = flags.FLAGS
    with command_line.user_errors():
        network, benchmarks, out = _prepare(asked)
    facts = {
        "command": f"python -m visor_jax.analyse {shlex.join(sys.argv[1:])}",
        "machine": machine_description(),
        "git_commit": git_commit(),
        "checkpoint": asked.checkpoint,
    }
    with owned_folder(out, remedy=_REMEDY), command_line.user_errors():
        found = analyse(
            network,
            benchmarks,
            asked.figures,
            out,
            budget=asked.budget,
            budgets=asked.budgets,
            rows=asked.rows,
            facts=facts,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    for name, each in found["benchmarks"].items():
        if each["errors"]:
            print(f"{name}: {len(each['errors'])} questions could not be read")
        if (limited := limit.sentence(name, each)) is not None:
            print(limited)
    print("\n".join(str(out / f"{name}.svg") for name in asked.figures))
    print(f"numbers: {out / NUMBERS}")


if __name__ == "__main__":
    command_line.run(main)
