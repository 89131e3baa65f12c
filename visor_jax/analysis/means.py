"""Means over a benchmark's questions, by kind, with how sure they are.

Questions about one picture vary together: the variance is that of pictures, linearised
as in `evals.statistics.group_score`, and the interval 1.96 standard errors wide on both
sides. One that is asked twice about its picture narrows nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from visor_jax.evals.benchmark import Example
from visor_jax.evals.predictions import ALL
from visor_jax.evals.statistics import Z95, ScoreTable, group_score


def kinds_of(
    examples: Sequence[Example], groups: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Returns {name: which questions}: all of them, groups of tasks, tasks."""
    tasks = np.array([example.task for example in examples])
    found = {ALL: np.full(len(tasks), True)}
    for group, names in groups.items():
        if np.isin(tasks, names).any():
            found[group] = np.isin(tasks, names)
    return found | {task: tasks == task for task in dict.fromkeys(tasks.tolist())}


def means_by_kind(
    values: Float[np.ndarray, "n k"],
    examples: Sequence[Example],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Returns {kind: {"mean", "low", "high": k numbers each, "questions"}}.

    A value of NaN does not count; where none counts there is None.
    """
    return _by_kind(values, examples, groups, mean_with_interval)


def scores_by_kind(
    scores: Float[np.ndarray, "n k"],
    examples: Sequence[Example],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Returns the same of scores in 0..1; intervals (Wilson) do not leave it."""
    return _by_kind(scores, examples, groups, score_with_interval)


def _by_kind(
    values: Float[np.ndarray, "n k"],
    examples: Sequence[Example],
    groups: Mapping[str, Sequence[str]],
    interval: Callable[..., tuple[float, float, float]],
) -> dict[str, dict[str, Any]]:
    names = [example.cluster for example in examples]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    clusters = np.array([number[name] for name in names])
    found = {}
    for kind, chosen in kinds_of(examples, groups).items():
        columns = [interval(column, clusters[chosen]) for column in values[chosen].T]
        ends = zip(*columns, strict=True)
        mean, low, high = (list(map(_or_none, each)) for each in ends)
        counted = {"questions": int(chosen.sum())}
        found[kind] = {"mean": mean, "low": low, "high": high, **counted}
    return found


def score_with_interval(
    scores: Float[np.ndarray, "n"], clusters: np.ndarray
) -> tuple[float, float, float]:
    """Returns the mean score and its interval. See `evals.statistics.group_score`."""
    if np.isnan(scores).all():
        return np.nan, np.nan, np.nan
    table = ScoreTable.of(scores, clusters, np.zeros(len(scores), int))
    found = group_score(table)
    return found.value, found.low, found.high


def mean_with_interval(
    values: Float[np.ndarray, "n"], clusters: np.ndarray
) -> tuple[float, float, float]:
    """Returns the mean of what is no NaN and the ends of its 95 % interval.

    NaN without a value; of one cluster nothing is known of others: then NaN for both
    ends.
    """
    there = ~np.isnan(values)
    if not there.any():
        return np.nan, np.nan, np.nan
    values, (_, place) = values[there], np.unique(clusters[there], return_inverse=True)
    mean = float(values.mean())
    influence = np.bincount(place, (values - mean) / len(values))
    count = len(influence)
    if count == 1:
        return mean, np.nan, np.nan
    half = Z95 * float(np.sqrt(np.sum(influence**2) * count / (count - 1)))
    return mean, mean - half, mean + half


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
