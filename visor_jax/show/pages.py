"""Shows what the embedded benchmark's data look like.

    python -m visor_jax.show.pages --out=sheet.png --seed=3 --count=8

draws a sheet of pages with their facts and prints one packed training row.
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


if __name__ == "__main__":
    command_line.begin(define_flags)

import numpy as np
from PIL import Image, ImageDraw

from visor_jax.data.pages.packing import TextRow
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.pages.pool.facts import PageFacts
from visor_jax.data.pages.pool.pool import PagePool, make_pool
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.pages.training_batches import PageQuestions
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
    """Returns all pages of the pool, enlarged, each above its facts."""
    side = IMAGE_SIZE * _SCALE
    width, height = side + _MARGIN, side + 4 * _LINE + 2 * _MARGIN
    columns = min(_PAGES_PER_ROW, len(pool))
    rows = -(-len(pool) // columns)
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, page in enumerate(pool.pages):
        x = _MARGIN + i % columns * width
        y = _MARGIN + i // columns * height
        enlarged = Image.fromarray(page).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x, y))
        for n, line in enumerate(describe(pool.page_facts(i))):
            pen.text((x, y + side + 2 + n * _LINE), line, fill="black")
    return sheet


def describe_row(page: int, row: TextRow) -> str:
    """Returns a packed row as a table: one line per question, trained targets in []."""
    tokenizer = page_tokenizer()
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
    pool = make_pool(options.split, options.count, seed=options.seed)
    with command_line.user_errors():
        picture_file.save(draw_sheet(pool), place)
    print(f"{len(pool)} pages of split {options.split!r}: {options.out}")
    settings = PageDataSettings(pool_size=options.count, seed=options.seed)
    print(describe_row(*PageQuestions(pool, settings, steps=1)[0]))


if __name__ == "__main__":
    command_line.run(main)
