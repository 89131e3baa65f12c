"""`python -m visor_jax.show.sample`: one sample as training sees it.

    python -m visor_jax.show.sample --config=configs/universal.py:llava_ov_0p5b \
        --config.data.path=DIR --config.data.processor=DIR --sample=7 --out=crops.png

Prints the text with what is trained in brackets, the lengths, the positions and the
bucket, and saves a picture of the crops. All settings are those of the run.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()
    flags.DEFINE_integer("sample", 0, "Number of the sample.")
    flags.DEFINE_string("out", None, "Picture of the crops, e.g. crops.png.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.settings import CONVERSATIONS
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings.read import read_settings
from visor_jax.show import picture_file
from visor_jax.tasks.training_data import open_conversations

_MARGIN, _PER_ROW = 4, 8


def describe(data: RunData, number: int) -> tuple[str, Sample]:
    """Returns what there is to say of a sample, and the sample.

    Args:
      number: of the run's samples, in the order of the mixture.

    Raises:
      ValueError: if there is no such sample, or it cannot be read.
    """
    if not 0 <= number < len(data.samples):
        raise ValueError(f"--sample={number} is not in 0..{len(data.samples) - 1}.")
    found, row = data.samples.find(number)
    sample = data.processor.sample(found.sample(row))
    conversation, layout = found.conversation(row), sample.layout
    sizes = ", ".join(f"{w} x {h}" for h, w in conversation.image_sizes)
    where = "dropped by the plan"
    if (chosen := data.bucket_of(number)) is not None:
        where = (
            f"bucket of {chosen.crops} crops, {chosen.image_tokens} image tokens, "
            f"{chosen.text_tokens} text tokens"
        )
    lines = [
        f"sample {number}: {conversation.id!r} of {conversation.source!r} "
        f"({found.place(row, 'texts')})",
        f"images (width x height): {sizes or 'none'}",
        f"{sample.num_crops} crops, {sample.num_image_tokens} image tokens, "
        f"{sample.num_text_tokens} text tokens; {where}",
        f"{layout.loss_mask.sum()} trained tokens ({data.processor.supervision}), "
        "in brackets:",
        "",
        marked_text(sample, data.processor.chat.tokenizer),
    ]
    return "\n".join(lines), sample


def marked_text(sample: Sample, tokenizer: Any) -> str:
    """Returns the text; what is predicted with a loss stands in ⟦ ⟧, images in < >."""
    layout = sample.layout
    # A token is trained where the one before it predicts it.
    trained = np.append(False, layout.loss_mask[:-1])
    image, text, pieces = layout.image_positions, layout.text_positions, []
    before = -1
    for start, end in _runs(trained, text):
        missing = int(np.sum((image > before) & (image < text[start])))
        if missing:
            pieces.append(f"<{missing} image tokens>")
        words = tokenizer.decode(layout.tokens[start:end].tolist())
        pieces.append(f"⟦{words}⟧" if trained[start] else words)
        before = text[end - 1]
    return "".join(pieces)


def _runs(trained: np.ndarray, positions: np.ndarray) -> list[tuple[int, int]]:
    """Returns (start, end) of neighbouring tokens that are trained alike."""
    breaks = (trained[1:] != trained[:-1]) | (positions[1:] != positions[:-1] + 1)
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(trained)]
    return list(itertools.pairwise(edges))


def picture(sample: Sample, images: ImageSettings) -> Image.Image:
    """Returns the crops side by side, as the tower sees them.

    Raises:
      ValueError: if there are none.
    """
    if not sample.num_crops:
        raise ValueError("A sample of text alone has no picture.")
    mean, std = np.array(images.mean), np.array(images.std)
    crops = np.clip((sample.crops * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)
    step = images.tile_size + _MARGIN
    columns = min(_PER_ROW, len(crops))
    rows = -(-len(crops) // columns)
    sheet = Image.new("RGB", (columns * step - _MARGIN, rows * step - _MARGIN), "white")
    for number, crop in enumerate(crops):
        place = number % columns * step, number // columns * step
        sheet.paste(Image.fromarray(crop), place)
    return sheet


def main(arguments: list[str]) -> None:
    """Prints the sample that the flags name, and saves its picture if they ask."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        place = picture_file.check_place(options.out) if options.out else None
        run = read_settings(config_flag.config_of(options))
        if run.data.kind != CONVERSATIONS:
            raise ValueError(
                f"The data of this configuration are {run.data.kind!r}, not converted: "
                "see python -m visor_jax.show.pages."
            )
        with tempfile.TemporaryDirectory() as temporary:
            data = open_conversations(
                run,
                cache=Path(run.data.cache or temporary),
                interruption=Interruption(),
            )
        text, sample = describe(data, options.sample)
        print(text)
        if place is not None:
            picture_file.save(picture(sample, data.processor.chat.images), place)
            print(f"\n{sample.num_crops} crops: {options.out}")


if __name__ == "__main__":
    command_line.run(main)
