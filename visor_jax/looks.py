"""`python -m visor_jax.looks`: what a network for tiled pages needs to look at.

    python -m visor_jax.looks --checkpoint=runs/universal-tiles-seed0 [--pages=512] \\
        [--scorer_pages=512 [--keep_scorer]]

Asks it about held-out pages while only the base view is there, or some tiles as well:
random ones, those that an untrained router finds (where the question looks in the CROSS
layers, over the base view), those that the question asks about, or all; at its cheapest
and its largest budget. Writes looks.json and looks.md: accuracy of easy and hard
questions, how often the router finds the asked tiles, and FLOPs from end to end, tower
included. With --scorer_pages a scorer of tiles is trained first, on so many pages of
the policy's handwriting, from right answers alone; --keep_scorer leaves it beside the
checkpoint, where crops="best+1" of `generate`, `answer` and `serve` finds it, and so
does this command without --scorer_pages. With --times it measures milliseconds instead,
into times.json.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_string("out", None, "Folder; by default <checkpoint>/looks.")
    flags.DEFINE_integer(
        "pages", 512, "Held-out pages; each is asked 8 tasks.", lower_bound=2
    )
    flags.DEFINE_string("split", "test", "Handwriting: train, policy or test.")
    flags.DEFINE_integer(
        "scorer_pages",
        0,
        "Pages of the policy's handwriting that a scorer of tiles learns from; 0 for "
        "the one that was kept, if any.",
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "keep_scorer",
        False,
        "Leaves the scorer in the workdir: it chooses tiles then for crops='best+1'.",
    )
    flags.DEFINE_bool("times", False, "Measures times instead of accuracies.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.analysis.cross_attention_maps import check_keeps_all
from visor_jax.analysis.looks.rows import Lookout, look_rows
from visor_jax.analysis.looks.scored_tiles import scored_pages
from visor_jax.analysis.looks.table import look_table
from visor_jax.analysis.looks.times import PAGES, RUNS, look_times
from visor_jax.checkpoints import layout
from visor_jax.data.pages.forms import TILES, forms_of
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.open_network import open_network
from visor_jax.inference.loading.reads_pages import pages_read
from visor_jax.policy.tile_scorer import train_scorer
from visor_jax.runtime import atomic_write, output_place
from visor_jax.runtime.machine import git_commit, machine_description

LOOKS_JSON, LOOKS_MD, TIMES_JSON = "looks.json", "looks.md", "times.json"
# Whose handwriting a scorer learns from.
_SCORERS = "policy"


def report_looks(
    checkpoint: str,
    *,
    out: str | None = None,
    pages: int = 512,
    split: str = "test",
    times: bool = False,
    scorer_pages: int = 0,
    keep_scorer: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Returns the content of looks.json, or of times.json, after writing it.

    Args:
      out: folder; None for one beside the checkpoints.
      pages: of all sizes together. command: that makes the report again.
      scorer_pages: that a scorer of tiles is trained on; 0 for the one that was kept,
        if any. keep_scorer: whether it stays beside the checkpoint.

    Raises:
      ValueError: for a network that does not read tiled pages, or has no CROSS layers;
        for a scorer that has nothing to learn from, or nothing to show.
      OSError: if the folder cannot be written to.
    """
    layout.check_local(checkpoint, "--checkpoint")
    split_id(split)
    _check_scorer(scorer_pages, split, times, keep_scorer)
    place = out or f"{checkpoint.rstrip('/')}/looks"
    folder = Path(output_place.check_folder(place, "--out"))
    network = open_network(checkpoint)
    _check(network)
    benchmark = TileBenchmark.make(pages, split=split)
    made = {
        "git_commit": git_commit(),
        "machine": machine_description(),
        "command": command,
        "seed": network.metadata.get("seed"),
        "train_steps": network.metadata.get("train_steps"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    smallest, largest = network.budgets.smallest, network.budgets.largest
    if times:
        measured = look_times(network, benchmark, (smallest, largest))
        content = {**made, "pages_at_once": PAGES, "runs": RUNS, "ms": measured}
        atomic_write.write_json(folder / TIMES_JSON, content)
        return content
    how = Lookout(budgets=(smallest, largest), router=smallest, scorer=network.scorer)
    if scorer_pages:
        how = _with_scorer(network, how, scorer_pages, keep=keep_scorer)
    known = {"scorer_pages": scorer_pages if how.scorer is not None else None}
    content = {**made, **known, **look_rows(network, benchmark, how)}
    atomic_write.write_text(folder / LOOKS_MD, look_table(content))
    # Last: whoever finds it finds everything else.
    atomic_write.write_json(folder / LOOKS_JSON, content)
    return content


def _with_scorer(network: Network, how: Lookout, pages: int, *, keep: bool) -> Lookout:
    """Returns the lookout with a scorer that learned from so many other pages."""
    others = TileBenchmark.make(pages, split=_SCORERS)
    scored = scored_pages(network, others, how.router, batch_size=how.batch_size)
    scorer = train_scorer(scored)
    if keep:
        network.scorer_file.write(scorer)
    return dataclasses.replace(how, scorer=scorer)


def _check_scorer(pages: int, split: str, times: bool, keep: bool) -> None:
    if not pages and keep:
        raise ValueError(
            "--keep_scorer keeps one that is trained here: say --scorer_pages=256."
        )
    if not pages:
        return
    least = len(forms_of(TILES))
    if pages < least:
        raise ValueError(
            f"--scorer_pages={pages}: pages come in {least} sizes, so give at least "
            f"{least}, or 0 for no scorer."
        )
    if split == _SCORERS:
        raise ValueError(
            f"--split={split} has the pages that a scorer learns from: ask about "
            "--split=test, or leave --scorer_pages out."
        )
    if times:
        raise ValueError("--times shows no scorer: leave --scorer_pages out.")


def _check(network: Network) -> None:
    if pages_read(network.metadata) != TILES:
        raise ValueError(
            "this network does not read tiled pages: train one with "
            "--config=configs/universal.py:tiles."
        )
    if not network.config.plan.cross_layers:
        raise ValueError(
            "this network has no CROSS layers, in which the router looks: take one of "
            "--config=configs/universal.py:tiles."
        )
    check_keeps_all(network)


def _times_text(content: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{grid}  {name:<24} {ms:8.3f} ms a page"
        for grid, found in content["ms"].items()
        for name, ms in found.items()
    )


def main(arguments: list[str]) -> None:
    """Prints the table of what it writes."""
    del arguments
    asked = flags.FLAGS
    with command_line.user_errors():
        content = report_looks(
            asked.checkpoint,
            out=asked.out,
            pages=asked.pages,
            split=asked.split,
            times=asked.times,
            scorer_pages=asked.scorer_pages,
            keep_scorer=asked.keep_scorer,
            command=f"python -m visor_jax.looks {shlex.join(sys.argv[1:])}",
        )
    print(_times_text(content) if asked.times else look_table(content))


if __name__ == "__main__":
    command_line.run(main)
