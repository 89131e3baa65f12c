"""Shows what the embedded benchmark's data look like.

    python -m visor_jax.show.pages --out=sheet.png --seed=3 --count=8

draws a sheet of pages with their facts and prints one packed training row. With
--kind=tiles, of pages of tiles, the base view of each beside it.
"""

from absl import flags

from visor_jax.commands import command_line
from visor_jax.data.pages.pool.handwriting import SPLITS


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("out", None, "PNG file of the sheet.", required=True)
    flags.DEFINE_integer("seed", 0, "Of the pages and the questions.")
    flags.DEFINE_integer("count", 8, "Pages on the sheet.", lower_bound=1)
    flags.DEFINE_enum("split", "train", SPLITS, "Handwriting of the pages.")
    flags.DEFINE_enum("kind", "digits", ["digits", "tiles"], "What pages show.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import numpy as np
from PIL import Image, ImageDraw

from visor_jax.data.pages.forms import TILES, form_of, forms_of, vocabulary_of
from visor_jax.data.pages.packing import TextRow
from visor_jax.data.pages.pool.facts import PageFacts
from visor_jax.data.pages.pool.pool import PagePool, make_pool
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tiles import facts as tile_facts
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.pages.training_batches import PageQuestions
from visor_jax.data.pages.vocabulary import Vocabulary
from visor_jax.data.pages.words import WORDS
from visor_jax.show import picture_file

_SCALE, _MARGIN, _LINE = 3, 12, 12
_PAGES_PER_ROW = 4


def describe(facts: PageFacts) -> list[str]:
    """Returns the facts as short lines of text."""
    rows = " / ".join(" ".join(map(str, row)) for row in facts.digits)
    bars = " ".join(map(str, facts.bars))
    row, column = facts.mark
    return [
        rows,
        f"mark row {row + 1} column {column + 1}, bars {bars}",
        f"{facts.colour}, {facts.band} band, {facts.dark_half} half dark",
        f"{'ring' if facts.ring else 'no ring'}, {facts.squares} orange squares, "
        f"number {facts.number}",
    ]


def draw_sheet(pool: PagePool) -> Image.Image:
    """Returns all pages of the pool, enlarged, each above its facts.

    Beside a page of several crops stands its base view, as large.
    """
    pictures = [_enlarged(pool, i) for i in range(len(pool))]
    facts = [_described(pool, i) for i in range(len(pool))]
    picture_width, side = pictures[0].size
    width = picture_width + _MARGIN
    height = side + len(facts[0]) * _LINE + 2 * _MARGIN
    columns = max(1, min(_PAGES_PER_ROW * side // picture_width, len(pool)))
    rows = -(-len(pool) // columns)
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x = _MARGIN + i % columns * width
        y = _MARGIN + i // columns * height
        sheet.paste(picture, (x, y))
        for n, line in enumerate(facts[i]):
            pen.text((x, y + side + 2 + n * _LINE), line, fill="black")
    return sheet


def _described(pool: PagePool, page: int) -> list[str]:
    if form_of(pool).patch_index.crops > 1:
        return tile_facts.describe(pool.facts[page])
    return describe(pool.page_facts(page))


def _enlarged(pool: PagePool, page: int) -> Image.Image:
    form, pixels = form_of(pool), pool.pages[page]
    shown = [Image.fromarray(pixels)]
    if form.patch_index.crops > 1:
        base = np.rint((form.crops(pixels[None])[0, 0] + 1) * 127.5).astype(np.uint8)
        shown.append(Image.fromarray(base))
    side = len(pixels) * _SCALE
    sheet = Image.new("RGB", (len(shown) * side, side))
    for i, picture in enumerate(shown):
        sheet.paste(
            picture.resize((side, side), Image.Resampling.NEAREST), (i * side, 0)
        )
    return sheet


def describe_row(page: int, row: TextRow, vocabulary: Vocabulary = WORDS) -> str:
    """Returns a packed row as a table: one line per question, trained targets in []."""
    tokenizer = page_tokenizer(vocabulary)
    words = np.array(tokenizer.convert_ids_to_tokens(row.tokens.tolist()))
    targets = np.array(tokenizer.convert_ids_to_tokens(row.targets.tolist()))
    lines = [f"Row about page {page}: inputs -> targets, the trained ones in []"]
    for segment in range(1, row.segments.max() + 1):
        at = np.flatnonzero(row.segments == segment)
        asked = [f"[{targets[i]}]" if row.loss_mask[i] else targets[i] for i in at]
        first, last = row.positions[at[0]], row.positions[at[-1]]
        lines.append(
            f"{segment:3}  {' '.join(words[at]):42} -> {' '.join(asked):46} "
            f"positions {first}..{last}"
        )
    lines.append(
        f"{row.mask.sum()} tokens and {np.sum(~row.mask)} padding in {len(row.mask)}; "
        f"{row.loss_mask.sum()} trained targets of {len(row.questions)} questions"
    )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Saves the sheet and prints the row."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        place = picture_file.check_place(options.out)
    forms, kind = forms_of(options.kind), options.kind
    pools = [
        make_pool(options.split, options.count, seed=options.seed, recipe=form.recipe)
        for form in forms
    ]
    with command_line.user_errors():
        picture_file.save(_below_each_other([draw_sheet(p) for p in pools]), place)
    number = sum(map(len, pools))
    print(f"{number} pages of split {options.split!r}: {options.out}")
    phases = {} if kind != TILES else {"phases": ((1.0, _each_task_alike(kind)),)}
    settings = PageDataSettings(
        kind=kind, pool_size=options.count, seed=options.seed, **phases
    )
    row = PageQuestions(pools, settings, steps=1)[0]
    print(describe_row(*row, vocabulary_of(kind)))


def _each_task_alike(kind: str) -> dict[str, float]:
    return dict.fromkeys(forms_of(kind)[0].book.task_names, 1.0)


def _below_each_other(sheets: list[Image.Image]) -> Image.Image:
    width, height = max(s.width for s in sheets), sum(s.height for s in sheets)
    whole, y = Image.new("RGB", (width, height), "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height
    return whole


if __name__ == "__main__":
    command_line.run(main)
