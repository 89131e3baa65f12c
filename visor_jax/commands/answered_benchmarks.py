"""What `evaluate` does with predictions of benchmarks that are there already.

`--rescore` scores them again, `--export` writes them for other harnesses. Neither needs
a network.
"""

from pathlib import Path
from typing import Any

REMEDY = "Wait for it, stop it, or give another --output."


def predictions_folder(options: Any) -> Path:
    """Returns the folder that --output names. Raises ValueError for what is none."""
    from visor_jax.checkpoints import layout
    from visor_jax.runtime import output_place

    if options.output is None:
        raise ValueError("Predictions need a folder: give --output.")
    layout.check_local(options.output, "--output")
    return output_place.check_folder(options.output, "--output")


def export_predictions(options: Any) -> None:
    """Writes the files of --export and prints their names. Raises ValueError."""
    from visor_jax.evals.answered import lines
    from visor_jax.evals.exports.export import export
    from visor_jax.evals.tables import limit
    from visor_jax.runtime.ownership import owned_folder

    folder = predictions_folder(options)
    if options.data is None:
        raise ValueError("--export needs the files that were asked: give --data.")
    names = _answered(options, folder)
    with owned_folder(folder, remedy=REMEDY):
        for file in export(folder, names, Path(options.data), options.export):
            print(file)
        for name in names:
            settings = lines.read_settings(lines.file_of(folder, name))
            if (limited := limit.sentence(name, settings)) is not None:
                print(limited)


def rescore(options: Any) -> None:
    """Scores anew what --output holds. Raises ValueError."""
    from visor_jax.evals.answered import lines
    from visor_jax.evals.benchmarks.registry import definition_of
    from visor_jax.runtime.ownership import owned_folder

    folder = predictions_folder(options)
    names = _answered(options, folder)
    with owned_folder(folder, remedy=REMEDY):
        files = [lines.file_of(folder, name) for name in names]
        read = [lines.read_lines(file) for file in files]
        for file, found in zip(files, read, strict=True):
            definition = definition_of(found[0]["benchmark"])
            lines.write_lines(
                file, (lines.rescored(each, definition) for each in found)
            )
        report(folder, files)


def report(folder: Path, files: list[Path]) -> None:
    """Writes scores.json and prints the table."""
    from visor_jax.evals.answered.summary import summary_of, table_of
    from visor_jax.runtime import atomic_write

    summaries = [summary_of(file) for file in files]
    file = folder / "scores.json"
    atomic_write.write_json(
        file, {each.benchmark: each.to_json() for each in summaries}
    )
    print(table_of(summaries))
    print(f"\nshares are per cent; all figures: {file}")


def _answered(options: Any, folder: Path) -> list[str]:
    """Returns the benchmarks with predictions that are named, or all that there are."""
    from visor_jax.evals.answered import lines
    from visor_jax.evals.benchmarks.registry import BENCHMARKS, definition_of

    names = options.benchmarks or [
        name for name in BENCHMARKS if lines.file_of(folder, name).exists()
    ]
    if not names:
        raise ValueError(f"--output={folder} holds no predictions of a benchmark.")
    return [definition_of(name).name for name in names]
