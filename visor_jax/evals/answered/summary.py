"""What a file of predictions sums up to: figures with intervals, what is missing."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals.answered import lines
from visor_jax.evals.answered.figure import Answered
from visor_jax.evals.answered.intervals import Measured, as_json, measure
from visor_jax.evals.benchmarks.registry import definition_of
from visor_jax.evals.tables import limit
from visor_jax.flops.table import aligned

# Of a benchmark in the printed table; all are in the file.
_SHOWN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of one benchmark's predictions.

    questions: that were to be asked, None if the settings do not say. answered: lines,
    errors among them, which count as wrong. unscored: without references. limited: what
    there is to say of a limit, None without one.
    """

    benchmark: str
    questions: int | None
    answered: int
    errors: int
    unscored: int
    figures: tuple[Measured, ...]
    limited: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as JSON values."""
        return dataclasses.asdict(self) | {"figures": as_json(self.figures)}


def summary_of(file: Path) -> Summary:
    """Returns the summary of a file of predictions.

    Raises:
      ValueError: for a file of something else. OSError: if it cannot be read.
    """
    found = lines.read_lines(file)
    definition = definition_of(found[0]["benchmark"])
    answered = [lines.answered_of(line, definition) for line in found]
    figures = definition.figures(categories_of(answered))
    settings = lines.read_settings(file)
    return Summary(
        benchmark=definition.name,
        questions=settings.get("questions"),
        answered=len(answered),
        errors=sum(each.answer is None for each in answered),
        unscored=sum(math.isnan(each.score) for each in answered),
        figures=tuple(measure(figures, answered)),
        limited=limit.sentence(definition.name, settings),
    )


def categories_of(answered: Sequence[Answered]) -> list[str]:
    """Returns the categories of the questions, in the order of names."""
    return sorted({each.question.category for each in answered} - {""})


def table_of(summaries: Sequence[Summary]) -> str:
    """Returns a table, a row a figure, the first few of each benchmark.

    Below it what there is to say of limits.
    """
    table = [["benchmark", "figure", "value", "95 %", "answered", "errors"]]
    width = max(len(f.name) for s in summaries for f in s.figures[:_SHOWN])
    for summary in summaries:
        for place, figure in enumerate(summary.figures[:_SHOWN]):
            asked = "" if summary.questions is None else f"/{summary.questions}"
            counts = [f"{summary.answered}{asked}", str(summary.errors)]
            table.append(
                [
                    summary.benchmark if place == 0 else "",
                    figure.name.ljust(width),
                    shown(figure.value, figure.points),
                    interval(figure.low, figure.high, figure.points),
                    *(counts if place == 0 else ["", ""]),
                ]
            )
    limited = [summary.limited for summary in summaries if summary.limited]
    return "\n".join([*(line.rstrip() for line in aligned(table)), *limited])


def shown(value: float, points: bool = False) -> str:
    """Returns a share in per cent, or points, as tables show them."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if points else f"{100 * value:.1f}"


def interval(low: float, high: float, points: bool = False) -> str:
    """Returns like "[71.2, 74.9]"."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    return f"[{shown(low, points)}, {shown(high, points)}]"
