"""`python -m visor_jax.convert.data`: conversations with images in, shards out.

    python -m visor_jax.convert.data --sources=train.json --images=DIR --out=DIR
    python -m visor_jax.convert.data --sources=DIR_OF_PARQUET --out=DIR
    python -m visor_jax.convert.data --verify=DIR

Sources are LLaVA-style JSON (a list) or JSONL (an entry a line) with a folder of
images, or the parquet folders of `lmms-lab/LLaVA-OneVision-Data`. Images keep their
bytes. A name or link that leads out of the folder of images is refused, unless
--allow_outside. Entries that cannot be trained on are listed in bad_items.jsonl with
the reason. The same command goes on with a conversion that was stopped.
"""

import os

from absl import flags

from visor_jax.checkpoints import layout
from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_list("sources", [], "Files, or folders of parquet files; by commas.")
    flags.DEFINE_string("images", None, "Folder that the JSON names images from.")
    flags.DEFINE_bool(
        "allow_outside", False, "Read images outside of --images too, by name or link."
    )
    flags.DEFINE_string("out", None, "Folder of the converted data.")
    flags.DEFINE_integer("rows_per_shard", 2000, "Entries that become one shard.")
    flags.DEFINE_integer("processes", os.cpu_count() or 1, "That decode images.")
    flags.DEFINE_string("verify", None, "Converted data to compare with its checksums.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import time
from typing import Any

from visor_jax.data.conversations.converting.conversion import (
    ConversionSettings,
    convert,
)
from visor_jax.data.conversations.manifest import (
    Manifest,
    read_manifest,
    verify_shards,
)
from visor_jax.runtime import output_place
from visor_jax.runtime.progress import Progress


def main(arguments: list[str]) -> None:
    """Converts or verifies, as the flags say."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        if options.verify and not options.sources and not options.out:
            layout.check_local(options.verify, "--verify")
            _verify(options.verify)
        elif options.sources and options.out and not options.verify:
            _convert(options)
        else:
            raise ValueError("Give --sources and --out to convert, or --verify alone.")


def _convert(options: Any) -> None:
    layout.check_local(options.out, "--out")
    settings = ConversionSettings(
        sources=tuple(options.sources),
        image_folder=options.images,
        allow_outside=options.allow_outside,
        rows_per_shard=options.rows_per_shard,
    )
    output_place.check_folder(options.out, "--out")
    began = time.monotonic()
    bar: Progress | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = Progress(total, description="converting", unit="entries").__enter__()
        bar.update(done)

    try:
        manifest = convert(
            settings, options.out, processes=options.processes, progress=show
        )
    finally:
        if bar is not None:
            bar.__exit__()
    print(summary(manifest))
    print(f"in {time.monotonic() - began:.0f} s")


def summary(manifest: Manifest) -> str:
    """Returns what was converted, and what was left out and why."""
    facts, bad = manifest.facts, manifest.facts["bad_items"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in bad["reasons"].items())
    left_out = f"{bad['total']} entries left out"
    if reasons:
        left_out += f" ({reasons}; see {manifest.directory / bad['file']})"
    return (
        f"{manifest.directory}: {manifest.samples} samples in {len(manifest.shards)} "
        f"shards, {facts['images']} images ({facts['image_bytes'] / 1e6:.0f} MB), "
        f"{facts['text_only']} samples of text alone\n{left_out}"
    )


def _verify(directory: str) -> None:
    manifest, damaged = read_manifest(directory), []
    with Progress(
        len(manifest.shards), description="verifying", unit="shards"
    ) as progress:
        for done, shard in enumerate(manifest.shards, 1):
            damaged += verify_shards(manifest, shard)
            progress.update(done)
    if damaged:
        raise ValueError(
            f"{directory}: {damaged} are not what was written: copy them again, or "
            "convert again."
        )
    print(f"{directory}: {manifest.samples} samples, every shard as it was written")


if __name__ == "__main__":
    command_line.run(main)
