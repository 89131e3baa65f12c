"""Which questions a limit takes: whole groups, spread evenly over all of them.

    groups   a a  b b  c c  d d  e e  f f       two questions each, limit 4
    taken         b b            e e            the middles of two equal parts

Rows of a data set often stand by difficulty or category, so its first rows are no
sample of it; and questions of a group vary together or only count together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Names in what `TableBenchmark.identity` says of a limit.
LIMIT, TAKES, QUESTIONS, THERE_ARE = "limit", "limit_takes", "questions", "there_are"
SPREAD = "whole groups, spread evenly"


def check_limit(limit: int | None) -> None:
    """Raises ValueError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit={limit} must be at least 1.")


def spread_groups(sizes: Sequence[int], limit: int) -> list[int]:
    """Returns the places of the fewest groups, spread evenly, with so many questions.

    All of them if there are fewer questions.

    Args:
      sizes: questions of every group, in the order of the groups.
    """
    counted = np.asarray(sizes, np.int64)
    total = len(counted)
    for count in range(max(1, -(-limit // int(counted.max()))), total):
        places = (2 * np.arange(count) + 1) * total // (2 * count)
        if counted[places].sum() >= limit:
            return places.tolist()
    return list(range(total))


def identity_of(limit: int | None, questions: int, there_are: int) -> dict[str, Any]:
    """Returns what predictions say of their limit."""
    if limit is None:
        return {LIMIT: None, QUESTIONS: questions}
    return {
        LIMIT: limit,
        TAKES: SPREAD,
        QUESTIONS: questions,
        THERE_ARE: there_are,
    }


def sentence(benchmark: str, identity: Mapping[str, Any]) -> str | None:
    """Returns what every output says of a limited benchmark; None without a limit."""
    if identity.get(LIMIT) is None:
        return None
    # Predictions of another version of this program may have taken the first rows.
    there_are = identity.get(THERE_ARE, "more")
    takes = identity.get(TAKES, "the first rows")
    return (
        f"{benchmark}: {identity[QUESTIONS]} of {there_are} questions: "
        f"--limit={identity[LIMIT]} took {takes}"
    )
