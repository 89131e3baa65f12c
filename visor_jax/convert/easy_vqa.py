"""`python -m visor_jax.convert.easy_vqa`: a real benchmark small enough to train on.

    pip install -e '.[easy-vqa]'
    python -m visor_jax.convert.easy_vqa --out=data/easy_vqa
    python -m visor_jax.train --config=configs/easy_vqa.py
    python -m visor_jax.evaluate --checkpoint=runs/universal-easy_vqa-seed0 \\
        --benchmarks=easy_vqa --data=data/easy_vqa --output=predictions --budget=all

Writes the questions about training pictures as converted conversations (`train`; about
the last 200 of them `dev`), those about these 200 and those of the test as tables for
`evaluate`, and the files of a small tokenizer (`processor`). Prints what answering
without a picture scores: for each question what most training answers to it are.
"""

import os

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags."""
    flags.DEFINE_string("out", None, "Folder of what is written.", required=True)
    flags.DEFINE_string(
        "package", None, "Its folder `data`; default: that of the installed package."
    )
    flags.DEFINE_integer(
        "processes", os.cpu_count() or 1, "That decode pictures.", lower_bound=1
    )


if __name__ == "__main__":
    command_line.begin(define_flags)

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.checkpoints import layout
from visor_jax.data.conversations.converting.conversion import (
    ConversionSettings,
    convert,
)
from visor_jax.data.easy_vqa.files import write_conversations, write_table
from visor_jax.data.easy_vqa.processor import write_processor
from visor_jax.data.easy_vqa.questions import (
    DEV,
    KINDS,
    TEST,
    TRAIN,
    EasyQuestion,
    accuracy_by_kind,
    blind_answers,
    package_data,
    read_split,
)
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.benchmarks.easy_vqa import EASY_VQA, EASY_VQA_DEV
from visor_jax.flops.table import aligned
from visor_jax.models.variants import variant
from visor_jax.runtime import output_place
from visor_jax.runtime.progress import Progress

# The network whose files they are: configs/easy_vqa.py.
VARIANT = "mini_short_pictures"


def convert_easy_vqa(
    data: Path, out: Path, *, processes: int = 1, progress: Any = None
) -> dict[str, list[EasyQuestion]]:
    """Returns {split: its questions} after writing all of them.

    Args:
      data: the package's folder. progress: called with (questions done, of how many).

    Raises:
      ValueError: for files of another form. OSError: if they are not there.
    """
    splits = {split: read_split(data, split) for split in (TRAIN, DEV, TEST)}
    out.mkdir(parents=True, exist_ok=True)
    # The second are for what is trained behind the network: which budget, say.
    for split in (TRAIN, DEV):
        source = out / f"{split}.json"
        write_conversations(source, splits[split], prompts.short)
        settings = ConversionSettings(
            sources=(str(source),), image_folder=str(data / TRAIN / "images")
        )
        how = {"processes": processes}
        if progress is not None and split == TRAIN:
            how["progress"] = progress
        convert(settings, out / split, **how)
    for definition in (EASY_VQA, EASY_VQA_DEV):
        split = definition.source.split
        write_table(out / f"{definition.tsv}.tsv", splits[split], data, split)
    texts = {prompts.short(each.text) for each in splits[TRAIN]}
    answers = {each.answer for each in splits[TRAIN]}
    side = variant(VARIANT).vision.image_size
    words = sorted(texts | answers)
    write_processor(out / "processor", words, [prompts.short("")], side=side)
    return splits


def blind_table(splits: Mapping[str, list[EasyQuestion]]) -> str:
    """Returns what the blind baseline scores on the test, by kind.

    It counts the answers about all training pictures, those for choosing among them.
    """
    blind = blind_answers([*splits[TRAIN], *splits[DEV]])
    found = accuracy_by_kind(blind, splits[TEST])
    names = ["all", *(kind for kind in KINDS if kind in found)]
    rows = [["test", *names], ["blind, %", *(f"{100 * found[n]:.1f}" for n in names)]]
    return "\n".join(aligned(rows))


def main(arguments: list[str]) -> None:
    """Writes the folder that the flags name."""
    del arguments
    options = flags.FLAGS
    bar: Progress | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            about = {"description": "converting", "unit": "questions"}
            bar = Progress(total, **about).__enter__()
        bar.update(done)

    with command_line.user_errors():
        layout.check_local(options.out, "--out")
        out = output_place.check_folder(options.out, "--out")
        data = package_data() if options.package is None else Path(options.package)
        try:
            splits = convert_easy_vqa(
                data, out, processes=options.processes, progress=show
            )
        finally:
            if bar is not None:
                bar.__exit__()
    counts = {name: len(questions) for name, questions in splits.items()}
    print(f"{out}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    print(blind_table(splits))


if __name__ == "__main__":
    command_line.run(main)
