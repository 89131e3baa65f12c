"""Two files of predictions on the same questions: how much better, and how sure.

Questions are paired by their ids, and what only one file has is counted and left out.
Both are drawn again by the same groups, so that what is hard for both does not blur the
difference. Where answers are right or wrong, McNemar's exact test asks how often a coin
would fall like the questions on which they differ; of several comparisons Holm's rule
keeps the chance of any false one at the level of one.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from visor_jax.evals.answered import intervals
from visor_jax.evals.answered.figure import Answered, Figure
from visor_jax.evals.answered.intervals import by_group, percentiles, sums_of, value_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure of the second file minus that of the first, on common questions.

    low, high: 95 % by drawing groups; NaN for one group alone.
    """

    name: str
    first: float
    second: float
    low: float
    high: float
    points: bool = False

    @property
    def value(self) -> float:
        return self.second - self.first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two files on their common questions.

    common: questions; only_first, only_second: those of one file. lost, won: questions
    that the first alone has right, and the second alone; None where scores are not
    right or wrong. p_value: of McNemar's exact test on these. flipped: (first, second)
    answers whose scores differ, in the order of ids.
    """

    common: int
    only_first: int
    only_second: int
    differences: tuple[Difference, ...]
    lost: int | None
    won: int | None
    p_value: float | None
    flipped: tuple[tuple[Answered, Answered], ...]

    @property
    def visible(self) -> float | None:
        """The difference that would be seen four times in five; None as `lost`.

        2.8 sqrt(share of questions on which they differ / n): 2.8 standard errors.
        """
        if self.lost is None or self.won is None:
            return None
        return 2.8 * math.sqrt((self.lost + self.won) / self.common / self.common)


def compare(
    first: Sequence[Answered],
    second: Sequence[Answered],
    figures: Sequence[Figure],
    *,
    draws: int = intervals.DRAWS,
    seed: int = intervals.SEED,
) -> Comparison:
    """Returns the second compared with the first.

    Raises:
      ValueError: if no question is in both, or one of the same id is another one.
    """
    one, other = ({each.question.id: each for each in some} for some in (first, second))
    common = sorted(set(one) & set(other))
    if not common:
        raise ValueError("The files have no question in common.")
    for name in common:
        if one[name].question != other[name].question:
            raise ValueError(
                f"Question {name!r} is not the same in both files: their data or "
                "prompts differ."
            )
    pairs = [(one[name], other[name]) for name in common]
    # A question that cannot be scored differs in nothing.
    flipped = [(a, b) for a, b in pairs if abs(a.score - b.score) > 0]
    lost, won, p_value = _mcnemar_of(pairs)
    return Comparison(
        common=len(common),
        only_first=len(one) - len(common),
        only_second=len(other) - len(common),
        differences=tuple(_differences(pairs, figures, draws, seed)),
        lost=lost,
        won=won,
        p_value=p_value,
        flipped=tuple(flipped),
    )


def mcnemar(b: int, c: int) -> float:
    """Returns the two-sided p-value of b and c discordant pairs, exactly.

    min(1, 2 sum over k <= min(b, c) of C(b+c, k) / 2^(b+c)); McNemar (1947).
    """
    if b + c == 0:
        return 1.0
    return min(1.0, 2 * float(scipy.special.bdtr(min(b, c), b + c, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values as they count among so many comparisons. Holm (1979)."""
    order = np.argsort(p_values, kind="stable")
    found, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order.tolist()):
        highest = max(highest, (len(p_values) - rank) * p_values[place])
        found[place] = min(1.0, highest)
    return found


def _mcnemar_of(
    pairs: Sequence[tuple[Answered, Answered]],
) -> tuple[int | None, int | None, float | None]:
    scores = {score for pair in pairs for score in (pair[0].score, pair[1].score)}
    if not scores <= {0.0, 1.0}:
        return None, None, None
    lost = sum(a.score > b.score for a, b in pairs)
    won = sum(a.score < b.score for a, b in pairs)
    return lost, won, mcnemar(lost, won)


def _differences(
    pairs: Sequence[tuple[Answered, Answered]],
    figures: Sequence[Figure],
    draws: int,
    seed: int,
) -> list[Difference]:
    # Questions are the same, and so are their groups and the order of these.
    both = [list(by_group([pair[i] for pair in pairs]).values()) for i in (0, 1)]
    sums = [[sums_of(figure, groups) for figure in figures] for groups in both]
    drawn: list[list[np.ndarray]] = [[] for _ in figures]
    if len(both[0]) > 1:
        for weights in intervals.weights_of_draws(len(both[0]), draws, seed):
            for place, figure in enumerate(figures):
                first, second = (
                    value_of(figure, names, weights @ table)
                    for names, table in (sums[0][place], sums[1][place])
                )
                drawn[place].append(second - first)
    found = []
    for place, figure in enumerate(figures):
        first, second = (
            float(value_of(figure, names, table.sum(axis=0)))
            for names, table in (sums[0][place], sums[1][place])
        )
        low, high = percentiles(drawn[place])
        found.append(
            Difference(
                name=figure.name,
                first=first,
                second=second,
                low=low,
                high=high,
                points=figure.points,
            )
        )
    return found
