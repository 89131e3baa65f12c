"""How sure a figure is: Wilson's interval for right and wrong, else groups drawn again.

Questions about one picture are right or wrong together. So a draw takes whole groups
(10,000 draws, percentiles), and Wilson's interval takes the number of questions that
would be as sure if they were independent; where every question is a group of its own,
that is their number.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from visor_jax.evals.answered.figure import Answered, Figure
from visor_jax.evals.statistics import wilson_interval

DRAWS, SEED = 10_000, 0
_PERCENTILES = (2.5, 97.5)
# Of the weights of groups that are held at once.
_CELLS = 2**22
WILSON, BOOTSTRAP = "wilson", "bootstrap"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with its 95 % interval; NaN where it is not defined.

    n: questions that count, 0 for a figure that is no mean. interval: "wilson" or
    "bootstrap". points: see `Figure`.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: str
    points: bool = False


def by_group(answered: Sequence[Answered]) -> dict[str, list[Answered]]:
    """Returns the answers of every group, groups and answers in the order of names.

    A question without a group is one of its own.
    """
    found: dict[str, list[Answered]] = {}
    for each in sorted(answered, key=lambda each: each.question.id):
        found.setdefault(group_of(each), []).append(each)
    return dict(sorted(found.items()))


def group_of(answered: Answered) -> str:
    """Returns what a draw takes together."""
    question = answered.question
    return question.group or f"question {question.id}"


def sums_of(
    figure: Figure, groups: Sequence[Sequence[Answered]]
) -> tuple[list[str], Float[np.ndarray, "groups sums"]]:
    """Returns the names of a figure's sums and the sums of every group."""
    found = [figure.of_group(group) for group in groups]
    names = sorted({name for each in found for name in each})
    table = [[each.get(name, 0.0) for name in names] for each in found]
    return names, np.array(table, np.float64).reshape(len(found), len(names))


def value_of(
    figure: Figure, names: Sequence[str], sums: Float[np.ndarray, "*draws sums"]
) -> Float[np.ndarray, "*draws"]:
    """Returns the figure of sums that have these names."""
    by_name = {name: sums[..., column] for column, name in enumerate(names)}
    return np.asarray(figure.combine(by_name), np.float64)


def weights_of_draws(
    groups: int, draws: int = DRAWS, seed: int = SEED
) -> Iterator[Float[np.ndarray, "draws groups"]]:
    """Yields how often each group is in each draw, some draws at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // groups)
    for begin in range(0, draws, at_once):
        size = min(at_once, draws - begin)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size).astype(float)


def measure(
    figures: Sequence[Figure],
    answered: Sequence[Answered],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> list[Measured]:
    """Returns the figures of the answers with their intervals.

    Raises:
      ValueError: for no answers.
    """
    if not answered:
        raise ValueError("There are no answers to sum up.")
    groups = list(by_group(answered).values())
    sums = [sums_of(figure, groups) for figure in figures]
    exact = [_wilson(figure, groups) for figure in figures]
    drawn: list[list[np.ndarray]] = [[] for _ in figures]
    # Of one group nothing is known of others.
    if len(groups) > 1 and None in exact:
        for weights in weights_of_draws(len(groups), draws, seed):
            for place, (figure, (names, table)) in enumerate(
                zip(figures, sums, strict=True)
            ):
                if exact[place] is None:
                    drawn[place].append(value_of(figure, names, weights @ table))
    return [
        exact[place] or _bootstrap(figure, groups, *sums[place], drawn[place])
        for place, figure in enumerate(figures)
    ]


def percentiles(drawn: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the 95 % interval of drawn values; NaN without any that is defined."""
    values = np.concatenate(drawn) if drawn else np.zeros(0)
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _bootstrap(
    figure: Figure,
    groups: Sequence[Sequence[Answered]],
    names: Sequence[str],
    table: Float[np.ndarray, "groups sums"],
    drawn: Sequence[np.ndarray],
) -> Measured:
    low, high = percentiles(drawn)
    scores = [] if figure.score is None else _scores(figure, groups)
    return Measured(
        name=figure.name,
        value=float(value_of(figure, names, table.sum(axis=0))),
        low=low,
        high=high,
        n=sum(map(len, scores)),
        interval=BOOTSTRAP,
        points=figure.points,
    )


def _scores(figure: Figure, groups: Sequence[Sequence[Answered]]) -> list[list[float]]:
    """Returns the scores of a mean by group, those that count."""
    found = [[figure.score(each) for each in group] for group in groups]
    kept = ([s for s in group if not math.isnan(s)] for group in found)
    return [group for group in kept if group]


def _wilson(figure: Figure, groups: Sequence[Sequence[Answered]]) -> Measured | None:
    """Returns a mean of noughts and ones with its interval; None for anything else."""
    if figure.score is None:
        return None
    scores = _scores(figure, groups)
    n = sum(map(len, scores))
    if not n or not {score for group in scores for score in group} <= {0.0, 1.0}:
        return None
    value = math.fsum(score for group in scores for score in group) / n
    low, high = wilson_interval(value, _independent(scores, value))
    return Measured(
        name=figure.name,
        value=value,
        low=low,
        high=high,
        n=n,
        interval=WILSON,
        points=figure.points,
    )


def _independent(scores: Sequence[Sequence[float]], mean: float) -> float:
    """Returns how many independent questions would be as sure as these.

    The linearised variance over groups, as in `evals.statistics.group_score`; without
    any, there are as many as groups.
    """
    n, groups = sum(map(len, scores)), len(scores)
    if n == groups:
        return float(n)
    off = [math.fsum(group) - mean * len(group) for group in scores]
    variance = math.fsum(d * d for d in off) / n**2 * groups / max(groups - 1, 1)
    if variance <= 1e-18:
        return float(groups)
    return min(float(n), mean * (1 - mean) / variance)


def as_json(measured: Sequence[Measured]) -> list[Mapping[str, object]]:
    """Returns the figures as JSON values; null where there is none."""
    return [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(each).items()
        }
        for each in measured
    ]
