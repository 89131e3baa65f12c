"""The figures by name: a new one is a file and a line here."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from visor_jax.analysis.figures import attention, budgets, cka, contribution, drop
from visor_jax.analysis.study import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisFigure:
    """What is measured, as JSON values, and the drawing of {benchmark: what it was}."""

    content: Callable[[Study], dict[str, Any]]
    draw: Callable[[Mapping[str, Mapping[str, Any]]], Figure]


FIGURES: dict[str, AnalysisFigure] = {
    name: AnalysisFigure(content=module.content, draw=module.draw)
    for name, module in (
        ("attention", attention),
        ("cka", cka),
        ("drop", drop),
        ("contribution", contribution),
        ("budgets", budgets),
    )
}


def check_names(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Does nothing if all names are known, each there once.

    Args:
      what: they are, in the plural: "figures".

    Raises:
      ValueError: for others, with those that are nearest.
    """
    if not names or not all(names):
        raise ValueError(f"--{what} is empty: give some of {', '.join(known)}.")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            nearest = f" (nearest: {', '.join(close)})" if close else ""
            raise ValueError(
                f"--{what}: there is no {name!r}{nearest}; known are "
                f"{', '.join(known)}."
            )
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"--{what} has {', '.join(repeated)} more than once.")
