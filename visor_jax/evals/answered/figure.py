"""A figure that sums up answers: a mean, an F1, points of categories.

Whatever it is, it is a function of sums over groups of questions (those about one
picture, the rows of a circle). So the interval of any figure comes from drawing groups
again (`intervals`), and the order of the answers changes nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from visor_jax.evals.tables.question import Question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """A question, its answer, what that was read as, and its score.

    answer: None where the network or the request failed. score: in 0..1; NaN where the
    question cannot be scored.
    """

    question: Question
    answer: str | None
    parsed: str | None
    score: float

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong with the answer."""
        return self.score == 1.0


# Sums by name, of one group or (arrays) of many draws of groups.
Sums = Mapping[str, Any]
Score = Callable[[Answered], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of all answers.

    of_group: the sums of one group's answers. combine: the figure of such sums, for
    arrays of them at once; a sum that no group has is 0. score: where the figure is a
    mean over answers, what of; NaN does not count. points: whether it is a number of
    points, and no share in 0..1.
    """

    name: str
    of_group: Callable[[Sequence[Answered]], Mapping[str, float]]
    combine: Callable[[Sums], np.ndarray]
    score: Score | None = None
    points: bool = False


def the_score(answered: Answered) -> float:
    """Returns the score of an answer."""
    return answered.score


def mean(
    name: str,
    score: Score = the_score,
    *,
    where: Callable[[Question], bool] | None = None,
) -> Figure:
    """Returns the mean of a score over the questions, of those alone `where` it says.

    A score of NaN does not count.
    """

    def counted(answered: Answered) -> float:
        if where is not None and not where(answered.question):
            return math.nan
        return score(answered)

    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        scores = [each for each in map(counted, group) if not math.isnan(each)]
        return {"sum": math.fsum(scores), "count": len(scores)}

    return Figure(
        name=name,
        of_group=of_group,
        combine=lambda sums: ratio(sums.get("sum", 0), sums.get("count", 0)),
        score=counted,
    )


def mean_of_means(
    name: str, categories: Sequence[str], score: Score = the_score
) -> Figure:
    """Returns the mean over categories of their questions' means.

    A category without a question does not count.
    """

    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        found: dict[str, float] = {}
        for answered in group:
            category = answered.question.category
            for what, value in (("sum", score(answered)), ("count", 1.0)):
                key = f"{what} {category}"
                found[key] = found.get(key, 0.0) + value
        return found

    def combine(sums: Sums) -> np.ndarray:
        asked = [each for each in categories if f"count {each}" in sums]
        means = np.stack([ratio(sums[f"sum {c}"], sums[f"count {c}"]) for c in asked])
        there = ~np.isnan(means)
        return ratio(np.where(there, means, 0).sum(axis=0), there.sum(axis=0))

    return Figure(name=name, of_group=of_group, combine=combine)


def by_category(categories: Sequence[str], score: Score = the_score) -> list[Figure]:
    """Returns the mean of every category, named like it."""
    return [
        mean(name, score, where=lambda question, name=name: question.category == name)
        for name in categories
    ]


def ratio(part: Any, whole: Any) -> np.ndarray:
    """Returns part / whole, NaN where there is nothing."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    empty = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=empty, where=whole != 0)
