"""`python -m visor_jax.cascade`: measures when a checkpoint should look again.

    python -m visor_jax.cascade --checkpoint=runs/universal [--agreement=0.99]
    python -m visor_jax.cascade --checkpoint=runs/universal --cost=0.5

Asks a trained network in its cheapest and its largest budget about pages that it was
not trained on, and writes to `<checkpoint>/cascade.json` the threshold at which so many
final answers are those of the larger budget, or at which the mean cost is so much of
asking that budget at once. From there `--budget=cascade` takes it. Beside it stand the
curves of every task: accuracy against cost, and what mixing both budgets at random has
at the same cost. It also prints a table of them.

    python -m visor_jax.generate --checkpoint=runs/universal --budget=cascade \\
        --image=page.png --prompt="digit row 2 column 3"
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_float(
        "agreement",
        None,
        "Share of answers that are to be the larger budget's; default: 0.99.",
    )
    flags.DEFINE_float(
        "cost", None, "Instead: at most so much of the larger budget's cost."
    )
    flags.DEFINE_string("first", "none", "Budget of the first look.")
    flags.DEFINE_string("second", "all", "Budget of the second look.")
    flags.DEFINE_integer("pages", 512, "Pages; each is asked 10 tasks.", lower_bound=1)
    flags.DEFINE_string("split", "policy", "Handwriting: train, policy or test.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.evals.cascade_curve import at_threshold, curves_by_task, two_looks
from visor_jax.evals.harness import Progress as Callback
from visor_jax.evals.harness import predict
from visor_jax.evals.pages.benchmark import PageBenchmark, check_reads_pages
from visor_jax.flops.table import aligned
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.open_network import open_network
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.cascade_calibration import (
    threshold_for_agreement,
    threshold_for_cost,
)
from visor_jax.runtime import atomic_write, output_place
from visor_jax.runtime.ownership import owned_file
from visor_jax.runtime.progress import Progress

AGREEMENT = 0.99
_REMEDY = "Wait for it, or stop it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a threshold is to reach: a share of agreement, or a mean cost.

    Raises ValueError for both, or numbers that cannot be.
    """

    agreement: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if self.agreement is not None and self.cost is not None:
            raise ValueError(
                f"--agreement={self.agreement:g} and --cost={self.cost:g} are two "
                "wishes for one threshold: leave one out."
            )
        if self.agreement is None and self.cost is None:
            object.__setattr__(self, "agreement", AGREEMENT)
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise ValueError(f"--agreement={self.agreement:g} is no share in 0..1.")
        if self.cost is not None and not self.cost > 0:
            raise ValueError(f"--cost={self.cost:g} must be above 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A cascade, and what it does: see `evals.cascade_curve.at_threshold`."""

    cascade: Cascade
    file: Path
    rows: Mapping[str, Mapping[str, float]]


def calibrate_cascade(
    checkpoint: str,
    wanted: Wanted | None = None,
    *,
    first: str = "none",
    second: str = "all",
    pages: int = 512,
    split: str = "policy",
    progress: Callback | None = None,
) -> Calibrated:
    """Returns the cascade of a checkpoint after writing it beside the checkpoint.

    Args:
      wanted: None for the agreement that the command takes.
      first, second: budgets that the network was trained for.
      progress: called with (answers so far, of how many).

    Raises:
      ValueError: for what is no checkpoint of a network that reads pages, budgets that
        it was not trained for, or a wish that no threshold fulfils.
      OSError: if the file cannot be written.
    """
    network, budgets = _prepare(checkpoint, first, second)
    benchmark = PageBenchmark.make(pages, split=split)
    return _calibrate(network, budgets, benchmark, wanted or Wanted(), progress)


def _prepare(checkpoint: str, first: str, second: str) -> tuple[Network, BudgetSet]:
    """Returns the network and both budgets, the cheaper one first."""
    layout.check_local(checkpoint, "--checkpoint")
    network = open_network(checkpoint)
    check_reads_pages(network.config, network.metadata)
    if network.cascade_file is None:
        raise ValueError(f"--checkpoint={checkpoint} is no run's: name its workdir.")
    output_place.check_file(Path(network.cascade_file.path), "--checkpoint")
    budgets = tuple(network.budgets.find(name) for name in (first, second))
    # Whether two such budgets are a cascade at all.
    Cascade(*budgets, 1.0).check(network.budgets)
    return network, BudgetSet(network.config.plan, budgets)


def _calibrate(
    network: Network,
    budgets: BudgetSet,
    benchmark: PageBenchmark,
    wanted: Wanted,
    progress: Callback | None,
) -> Calibrated:
    file, (first, second) = Path(network.cascade_file.path), budgets.budgets
    with owned_file(file, remedy=_REMEDY):
        found = predict(network, benchmark, budgets, scored=True, progress=progress)
        looks = two_looks(found, first, second)
        if wanted.cost is not None:
            threshold = threshold_for_cost(looks, wanted.cost)
        else:
            threshold = threshold_for_agreement(looks, wanted.agreement)
        cascade = Cascade(first, second, threshold)
        rows = at_threshold(found, first, second, threshold)
        measured = {
            "benchmark": benchmark.identity(),
            "wanted": dataclasses.asdict(wanted),
            "rows": rows,
            "curves": curves_by_task(found, first, second),
        }
        content = network.cascade_file.content(cascade, measured)
        atomic_write.write_json(file, content)
    return Calibrated(cascade=cascade, file=file, rows=rows)


def table_of(found: Calibrated) -> str:
    """Returns the numbers of every task and group as text."""
    cells = [["", "first %", "second %", "cascade %", "mixing %", "again %", "cost"]]
    for name, row in found.rows.items():
        shares = ("first", "second", "cascade", "mixing", "again")
        numbers = [f"{100 * row[key]:.1f}" for key in shares]
        cells.append([name, *numbers, f"{row['cost']:.3f}"])
    notes = (
        "first, second: either budget alone; again: looked at twice; cost: FLOPs of "
        "the LLM to the\nend of the answer, relative to the second budget; mixing: "
        "both budgets mixed at random\nwithin a task at that cost."
    )
    return "\n".join([*aligned(cells), "", notes])


def main(arguments: list[str]) -> None:
    """Prints what the cascade of the checkpoint that the flags name does."""
    del arguments
    asked = flags.FLAGS
    with command_line.user_errors():
        wanted = Wanted(agreement=asked.agreement, cost=asked.cost)
        network, budgets = _prepare(asked.checkpoint, asked.first, asked.second)
        benchmark = PageBenchmark.make(asked.pages, split=asked.split)
        total = len(budgets) * len(benchmark)
        with Progress(total, description="asking", unit="answers") as shown:
            found = _calibrate(
                network, budgets, benchmark, wanted, lambda n, _: shown.update(n)
            )
    print(table_of(found))
    print(f"\n{found.cascade.name}: {found.file}")


if __name__ == "__main__":
    command_line.run(main)
