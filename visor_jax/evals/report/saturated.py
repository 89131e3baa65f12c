"""Hard tasks that every budget answers: they tell no budgets apart.

What is hard is said by what a task asks, before any network is trained, so that all
reports share it. A network may learn such a task so well that it needs no layer for it;
`evaluate`'s report then has both groupings side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Right answers at every budget of the universal network.
SATURATED = 0.99
_EASY, _HARD = "easy", "hard"

Row = Mapping[str, Any]
Groups = Mapping[str, Sequence[str]]


def saturated_tasks(rows: Sequence[Row], groups: Groups) -> list[str]:
    """Returns the hard tasks that a universal network answers at every budget.

    Args:
      rows: of a report; those of a universal network's budgets decide, if there are
        several.
      groups: {group: its tasks}; nothing is hard where no group is called so.
    """
    universal = [row for row in rows if row["model"] == "universal"]
    if len(universal) < 2 or _EASY not in groups:
        return []
    return [
        task
        for task in groups.get(_HARD, ())
        if min(row["tasks"][task] for row in universal) >= SATURATED
    ]


def regrouped(
    row: Row, groups: Groups, saturated: Sequence[str]
) -> dict[str, float | None]:
    """Returns a row's mean accuracy of each group, with saturated tasks called easy.

    None where that leaves a group without tasks.
    """
    tasks = {group: list(names) for group, names in groups.items()}
    tasks[_HARD] = [task for task in tasks[_HARD] if task not in saturated]
    tasks[_EASY] += saturated
    return {
        group: float(np.mean([row["tasks"][task] for task in names])) if names else None
        for group, names in tasks.items()
    }


def rule_of(saturated: Sequence[str]) -> str:
    """Returns the rule, and which tasks it is about, as a sentence."""
    names = ", ".join(f"`{task}`" for task in saturated)
    several = len(saturated) > 1
    are, it_asks = ("are", "they ask") if several else ("is", "it asks")
    return (
        f"{names} {are} called hard for what {it_asks}, and yet answered at "
        f"{100 * SATURATED:.0f} % or more at every budget of the universal network: no "
        "budgets are told apart by that. Means over tasks with such ones called easy, "
        "beside those above:"
    )
