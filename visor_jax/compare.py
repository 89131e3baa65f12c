"""`python -m visor_jax.compare`: is one file of predictions better than another?

    python -m visor_jax.compare dense/docvqa.jsonl sa0/docvqa.jsonl sa2/docvqa.jsonl

The files are those of `evaluate --benchmarks`, all of one benchmark; every further one
is compared with the first, question by question: figures with 95 % intervals, paired
differences, McNemar's exact test where answers are right or wrong, Holm's correction
where there are several. Then the questions whose score changed, with both answers.
"""

from absl import flags

from visor_jax.commands import command_line

ARGUMENTS = "files of predictions, the first to compare the others with"


def define_flags() -> None:
    """Defines the program's flags."""
    flags.DEFINE_integer(
        "flipped", 10, "Changed questions to print of each file.", lower_bound=0
    )
    flags.DEFINE_string("json", None, "File for all of it, every changed question.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals.answered import lines
from visor_jax.evals.answered.figure import Answered
from visor_jax.evals.answered.intervals import Measured, as_json, measure
from visor_jax.evals.answered.paired import Comparison, compare, holm
from visor_jax.evals.answered.summary import categories_of, interval, shown
from visor_jax.evals.benchmarks.registry import definition_of
from visor_jax.evals.tables import limit
from visor_jax.flops.table import aligned
from visor_jax.runtime import atomic_write, output_place

# Of the figures, in the printed tables; all are in the file.
_SHOWN = 4
_LONGEST = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """A file of predictions as it was read."""

    path: str
    benchmark: str
    answered: list[Answered]
    limited: str | None = None


def read(path: str) -> Predictions:
    """Returns a file's answers as they are scored now.

    Raises:
      ValueError: for a file of something else. OSError: if it cannot be read.
    """
    found = lines.read_lines(Path(path))
    definition = definition_of(found[0]["benchmark"])
    answered = [lines.answered_of(line, definition) for line in found]
    return Predictions(
        path=path,
        benchmark=definition.name,
        answered=answered,
        limited=limit.sentence(definition.name, lines.read_settings(Path(path))),
    )


def compare_all(files: Sequence[Predictions]) -> dict[str, Any]:
    """Returns figures of all files and comparisons of all but the first with it.

    JSON values, but for the objects under "measured" and "compared".

    Raises:
      ValueError: for fewer than two files, or files of several benchmarks.
    """
    if len(files) < 2:
        raise ValueError("Give two files of predictions or more.")
    names = sorted({each.benchmark for each in files})
    if len(names) > 1:
        raise ValueError(f"The files are of several benchmarks: {', '.join(names)}.")
    every = [answered for each in files for answered in each.answered]
    figures = definition_of(names[0]).figures(categories_of(every))
    first, *others = files
    return {
        "benchmark": names[0],
        "measured": [measure(figures, each.answered) for each in files],
        "compared": [compare(first.answered, o.answered, figures) for o in others],
    }


def as_values(files: Sequence[Predictions], found: dict[str, Any]) -> dict[str, Any]:
    """Returns all of it as JSON values."""
    corrected = _corrected(found["compared"])
    others = zip(files[1:], found["compared"], corrected, strict=True)
    return {
        "benchmark": found["benchmark"],
        "files": [
            {
                "file": each.path,
                "figures": as_json(measured),
                "limited": each.limited,
            }
            for each, measured in zip(files, found["measured"], strict=True)
        ],
        "comparisons": [
            {"first": files[0].path, "second": each.path, **_values(compared, p_value)}
            for each, compared, p_value in others
        ],
    }


def _values(compared: Comparison, corrected: float | None) -> dict[str, Any]:
    kept = ("common", "only_first", "only_second", "lost", "won", "p_value", "visible")
    return {
        **{name: getattr(compared, name) for name in kept},
        "p_value_holm": corrected,
        "differences": [
            {"value": each.value, **dataclasses.asdict(each)}
            for each in compared.differences
        ],
        "flipped": [
            {
                "id": one.question.id,
                "references": one.question.references,
                "answers": [one.answer, other.answer],
                "scores": [one.score, other.score],
            }
            for one, other in compared.flipped
        ],
    }


def _corrected(compared: Sequence[Comparison]) -> list[float | None]:
    """Returns Holm's p-values; None where there is none to correct."""
    known = [each.p_value for each in compared if each.p_value is not None]
    corrected = iter(holm(known))
    return [None if each.p_value is None else next(corrected) for each in compared]


def figures_table(files: Sequence[Predictions], measured: Sequence[Any]) -> str:
    """Returns a table of the files' figures, a row a file, and what limits they had."""
    table = [["file", *(each.name for each in measured[0][:_SHOWN])]]
    for file, found in zip(files, measured, strict=True):
        table.append([file.path, *(_with_interval(each) for each in found[:_SHOWN])])
    limited = [f"{each.path}: {each.limited}" for each in files if each.limited]
    return "\n".join([*aligned(table), *limited])


def _with_interval(figure: Measured) -> str:
    between = interval(figure.low, figure.high, figure.points)
    return f"{shown(figure.value, figure.points)} {between}"


def differences_text(
    path: str, compared: Comparison, corrected: float | None, flipped: int
) -> str:
    """Returns what is to be said of one file beside the first."""
    table = [["figure", "difference", "95 %"]]
    for each in compared.differences[:_SHOWN]:
        sign = "+" if each.value > 0 else ""
        between = interval(each.low, each.high, each.points)
        table.append([each.name, f"{sign}{shown(each.value, each.points)}", between])
    told = [
        f"{path}: {compared.common} questions in common; {compared.only_first} only in "
        f"the first, {compared.only_second} only here",
        *aligned(table),
    ]
    if compared.p_value is not None:
        told.append(
            f"right in the first alone {compared.lost}, here alone {compared.won}: "
            f"McNemar p = {compared.p_value:.4g}, after Holm {corrected:.4g}; visible "
            f"at 80 % power: {shown(compared.visible)}"
        )
    told.append(f"{len(compared.flipped)} questions changed their score")
    for one, other in compared.flipped[:flipped]:
        answers = " -> ".join(
            f"{_said(each)} ({each.score:.2g})" for each in (one, other)
        )
        references = " | ".join(dict.fromkeys(one.question.references))
        told.append(f"  {one.question.id} [{references:.{_LONGEST}}]: {answers}")
    return "\n".join(told)


def _said(answered: Answered) -> str:
    if answered.answer is None:
        return "(error)"
    return repr(f"{answered.answer:.{_LONGEST}}")


def main(arguments: list[str]) -> None:
    """Prints figures, differences and changed questions."""
    options, paths = flags.FLAGS, arguments[1:]
    with command_line.user_errors():
        if options.json is not None:
            output_place.check_file(options.json, "--json")
        files = [read(path) for path in paths]
        found = compare_all(files)
    if options.json is not None:
        atomic_write.write_json(options.json, as_values(files, found))
    print(figures_table(files, found["measured"]))
    corrected = _corrected(found["compared"])
    for file, compared, p_value in zip(
        files[1:], found["compared"], corrected, strict=True
    ):
        print(f"\n{differences_text(file.path, compared, p_value, options.flipped)}")


if __name__ == "__main__":
    command_line.run(main)
