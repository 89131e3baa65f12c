"""Predictions in the files of other harnesses, beside their own."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from visor_jax.evals.answered import lines
from visor_jax.evals.benchmarks.registry import definition_of
from visor_jax.evals.exports import lmms_eval_samples, vlmevalkit
from visor_jax.runtime import atomic_write

# By name: a module with `file_name` and `content`.
EXPORTS: dict[str, ModuleType] = {
    "lmms_eval": lmms_eval_samples,
    "vlmevalkit": vlmevalkit,
}


def export(
    folder: Path, benchmarks: Sequence[str], data: Path, names: Sequence[str]
) -> list[Path]:
    """Returns the files that it writes: one of each export for each benchmark.

    Args:
      folder: of the predictions; the files go into it. data: that was asked.

    Raises:
      ValueError: for an unknown export, predictions of something else, or data that
        they are not of; then nothing is written.
      OSError: if a file cannot be read or written.
    """
    unknown = [name for name in names if name not in EXPORTS]
    if unknown:
        raise ValueError(
            f"--export={','.join(names)}: there is no {unknown[0]!r}; known are "
            f"{', '.join(EXPORTS)}."
        )
    made: dict[Path, bytes] = {}
    for benchmark in benchmarks:
        definition = definition_of(benchmark)
        found = lines.read_lines(lines.file_of(folder, benchmark))
        for each in (EXPORTS[name] for name in names):
            file = folder / each.file_name(definition)
            made[file] = each.content(definition, found, data)
    for file, content in made.items():
        atomic_write.write_bytes(file, content)
    return list(made)
