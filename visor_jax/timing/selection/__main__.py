"""Times what choosing image tokens costs, beside the prefill that it makes shorter.

    python -m visor_jax.timing.selection [--variant=llava_ov_0p5b] \\
        [--pictures=base,640x480] [--rows=4] [--share=0.25] \\
        [--methods='fastv visionzip visor_tr:factor=4']

Random weights, every layer over image and text. For every method of token reduction, at
a share of the tokens:

    tokens      that a layer sees in the mean
    choosing    seconds: of a tower that hands out what the method reads, and of what
                stands between tower and decoder, less the same for all tokens; between
                layers, of a prefill, less one in which the first tokens stay, as many
                in every layer
    of prefill  these seconds, of those of the whole prefill with the method
    prefill     seconds: tower, choosing, decoder
    of dense    that, of the prefill with every token

What is compared takes turns.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("variant", "llava_ov_0p5b", "Whose shapes, made dense.")
    flags.DEFINE_list(
        "pictures", ["base", "640x480"], "Pixels; 'base' is one crop of any."
    )
    flags.DEFINE_integer("rows", 4, "Prompts at once.", lower_bound=1)
    flags.DEFINE_integer("text_tokens", 64, "Of a prompt.", lower_bound=1)
    flags.DEFINE_float("share", 0.25, "Of the tokens, that stays.")
    flags.DEFINE_spaceseplist(
        "methods", [], "Of --reduce, with spaces between; default: all of them."
    )
    flags.DEFINE_integer("runs", 2, "That are timed, of each program.", lower_bound=1)
    flags.DEFINE_string("dtype", "float32", "Of parameters and activations.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import PatchIndex, anyres_patch_index
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.flops.table import aligned
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.variants import dense, variant
from visor_jax.models.vision.crop_features import NOTHING
from visor_jax.runtime.machine import machine_description
from visor_jax.runtime.progress import Progress
from visor_jax.runtime.stopwatch import take_turns
from visor_jax.runtime.user_error import UserError
from visor_jax.timing.accelerator import network
from visor_jax.timing.selection import programs
from visor_jax.timing.selection.methods import Timed, every_token, timed_methods
from visor_jax.timing.selection.programs import Pictures
from visor_jax.token_reduction.registry import NONE, REDUCERS

COLUMNS = ("method", "tokens", "choosing", "of prefill", "prefill", "of dense")
_COMPRESSOR = "token_compressor"
Times = Mapping[Any, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one method takes; seconds. dense: of the prefill with every token."""

    method: str
    tokens: float
    choosing: float
    prefill: float
    dense: float

    def cells(self) -> tuple[str, ...]:
        """Returns the row of the table."""
        return (
            self.method,
            f"{self.tokens:.0f}",
            f"{self.choosing:.3f}",
            f"{100 * self.choosing / self.prefill:.1f} %",
            f"{self.prefill:.2f}",
            f"{100 * self.prefill / self.dense:.0f} %",
        )


def selection_times(
    pictures: Pictures,
    methods: Sequence[Timed],
    *,
    runs: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Returns a row for each method, the one that keeps every token first.

    progress: called with the programs compiled and timed, and how many there are.
    """
    every = every_token(pictures.of.config)
    methods = [every, *methods]
    steps = _Steps(progress, total=_programs(methods))
    params = _params(methods)
    pixels, prompts = pictures.pixels(), pictures.prompts()
    towers = {
        reads: steps.compiled(
            programs.applied(every, programs.tower(reads)), params[NONE], pixels
        )
        for reads in {each.tower_reads: None for each in methods}
    }
    seen = {reads: jax.block_until_ready(see()) for reads, see in towers.items()}
    between = {
        each.spec: steps.compiled(
            programs.applied(each, programs.between(each, pictures)),
            *(params[each.spec], *seen[each.tower_reads], pixels),
        )
        for each in methods
    }
    saw = _seconds(towers, runs=runs)
    tokens = {name: jax.block_until_ready(make()) for name, make in between.items()}
    made = _seconds(between, runs=runs + 1)
    read: dict[Any, Callable[[], Any]] = {}
    for each in methods:
        for key, reducer in _prefills(each, pictures):
            if key not in read:
                run = programs.prefill(each, reducer)
                what = params[each.spec], tokens[each.spec], prompts
                read[key] = steps.compiled(run, *what)
    taken = _seconds(read, runs=runs)
    steps.done(steps.total)
    return list(_rows(methods, pictures, saw, made, taken))


def _rows(
    methods: Sequence[Timed],
    pictures: Pictures,
    saw: Times,
    made: Times,
    taken: Times,
) -> Iterator[Row]:
    dense = None
    for each in methods:
        own, *others = (taken[key] for key, _ in _prefills(each, pictures))
        before = saw[each.tower_reads] + made[each.spec]
        choosing = before - saw[NOTHING] - made[NONE]
        choosing += sum(own - other for other in others)
        whole = before + own
        dense = whole if dense is None else dense
        lengths = each.lengths(pictures.of.image_tokens)
        yield Row(
            method=each.spec,
            tokens=float(np.mean(lengths)),
            choosing=choosing,
            prefill=whole,
            dense=dense,
        )


def _prefills(each: Timed, pictures: Pictures) -> list[tuple[Any, Any]]:
    """Returns (what others would share, reducer) of the prefills that are timed.

    The method's own first; then, if it chooses between layers, one without a choice.
    """
    if not each.looks_inside:
        lengths = each.lengths(pictures.of.image_tokens)
        return [((lengths[0], each.reducer.position_rule), each.reducer)]
    return [
        (each.spec, each.reducer),
        (f"{each.spec}, first tokens", each.unchosen(pictures.of.image_tokens)),
    ]


def _programs(methods: Sequence[Timed]) -> int:
    """Returns how many programs there are at most."""
    towers = {each.tower_reads for each in methods}
    return len(towers) + sum(2 + each.looks_inside for each in methods)


def _params(methods: Sequence[Timed]) -> dict[str, Any]:
    """Returns parameters by method: one network's, with what compresses beside it."""
    plain, found = network.random_params(methods[0].config), {}
    for each in methods:
        found[each.spec] = plain
        if each.config.compressor is not None:
            shapes = {_COMPRESSOR: parameter_shapes(each.config)[_COMPRESSOR]}
            own = network.random_leaves(shapes, each.config.compute_dtype)
            found[each.spec] = {**plain, **own}
    return found


def _seconds(calls: Mapping[Any, Callable[[], Any]], *, runs: int) -> dict[Any, float]:
    taken = take_turns(calls, runs=runs, warm_up=0, there_and_back=True)
    return {name: statistics.median(each) for name, each in taken.items()}


class _Steps:
    """How many programs are compiled, of about how many."""

    def __init__(self, progress: Callable[[int, int], None], *, total: int) -> None:
        self._progress, self.total, self._count = progress, total, 0

    def compiled(self, function: Any, *arguments: Any) -> Callable[[], Any]:
        """Returns `programs.compiled`."""
        call = programs.compiled(function, *arguments)
        self.done(min(self._count + 1, self.total - 1))
        return call

    def done(self, count: int) -> None:
        """Tells that so many are done."""
        self._count = count
        self._progress(count, self.total)


def patches_of(picture: str, config: VLMConfig) -> PatchIndex:
    """Returns the tokens of a picture of "WIDTHxHEIGHT", or of one crop alone.

    Raises:
      ValueError: for another text, or if the network knows no newline.
    """
    side, patch = config.vision.image_size, config.vision.patch_size
    if picture == "base":
        return PatchIndex(np.arange(config.vision.num_patches, dtype=np.int32), None, 1)
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", picture)
    if match is None:
        raise ValueError(f"--pictures: {picture!r} is no WIDTHxHEIGHT, and not 'base'.")
    if not config.image_newline:
        raise ValueError(
            f"--pictures={picture}: tiles end with newlines, and this network has none."
        )
    images = ImageSettings.of_sizes(side, patch)
    return anyres_patch_index(int(match[2]), int(match[1]), images)


def main(arguments: list[str]) -> None:
    """Prints a table for each picture that the flags name."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        network_of = variant(options.variant).replace(
            compute_dtype=options.dtype, reading_layers=()
        )
        config = dense(network_of)
        every = [(name, patches_of(name, config)) for name in options.pictures]
        names = options.methods or list(REDUCERS)
        unknown = sorted({name.partition(":")[0] for name in names} - set(REDUCERS))
        if unknown or not 0 < options.share <= 1:
            raise UserError(
                f"--methods={','.join(unknown)}: there are {', '.join(REDUCERS)}."
                if unknown
                else f"--share={options.share} must be above 0, up to 1."
            )
    for name, patches in every:
        how = {"text_tokens": options.text_tokens, "rows": options.rows}
        pictures = Pictures.make(name, config, patches, **how)
        _show(pictures, patches, names, options)


def _show(
    pictures: Pictures, patches: PatchIndex, names: Sequence[str], options: Any
) -> None:
    prompt = PromptLengths(
        text_tokens=options.text_tokens,
        image_tokens=patches.count,
        crops=patches.crops,
    )
    found = list(timed_methods(pictures.of.config, prompt, options.share, names))
    methods = [each for each in found if isinstance(each, Timed)]
    total = _programs([every_token(pictures.of.config), *methods])
    with Progress(total, description=f"{pictures.of.name}: programs") as bar:
        rows = selection_times(
            pictures, methods, runs=options.runs, progress=lambda n, _: bar.update(n)
        )
    print(
        f"\n{options.variant}, {pictures.of.name}: {patches.crops} crops, "
        f"{patches.count} image and {options.text_tokens} text tokens, "
        f"{options.rows} rows, {options.dtype}; {machine_description()}"
    )
    print("\n".join(aligned([COLUMNS, *(row.cells() for row in rows)])), flush=True)
    for each in found:
        if not isinstance(each, Timed):
            print(f"{each[0]}: not timed: {each[1]}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main)
