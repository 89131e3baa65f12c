"""How sure an accuracy is: scores by cluster and task, means with their intervals."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Int

# Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """The scores of one network, in 0..1, by what was asked about and what was asked.

    sums: of the scores of a cluster's examples of a task. counts: how many there are.
    """

    sums: Float[np.ndarray, "clusters tasks"]
    counts: Int[np.ndarray, "clusters tasks"]

    @classmethod
    def of(
        cls,
        scores: Float[np.ndarray, "n"],
        clusters: Int[np.ndarray, "n"],
        tasks: Int[np.ndarray, "n"],
    ) -> "ScoreTable":
        """Returns the table of examples with these numbers of cluster and task.

        A score of NaN does not count.
        """
        shape = clusters.max() + 1, tasks.max() + 1
        sums, counts = np.zeros(shape), np.zeros(shape, int)
        there = ~np.isnan(scores)
        places = clusters[there], tasks[there]
        np.add.at(sums, places, scores[there])
        np.add.at(counts, places, 1)
        return cls(sums=sums, counts=counts)

    def of_tasks(self, tasks: Sequence[int]) -> "ScoreTable":
        """Returns the table of some of the tasks."""
        tasks = list(tasks)
        return ScoreTable(sums=self.sums[:, tasks], counts=self.counts[:, tasks])

    @property
    def accuracies(self) -> Float[np.ndarray, "tasks"]:
        """The mean score of every task."""
        return self.sums.sum(axis=0) / self.counts.sum(axis=0)


@dataclasses.dataclass(frozen=True)
class Score:
    """An accuracy in 0..1 and its 95 % interval."""

    value: float
    low: float
    high: float


def task_score(*networks: ScoreTable) -> Score:
    """Returns the mean score of one task, with its interval (see `_score`).

    The variance over clusters of a mean over networks is taken to be that of one
    network, which is the careful choice; so is that of right and wrong answers for
    scores between them, which vary less. Clusters with several examples of the task are
    taken as a whole, as in `group_score`.

    Args:
      *networks: of each network that was trained alike, on the same examples; one task.
    """
    counts = networks[0].counts
    if counts.max() > 1:
        return group_score(*networks)
    values = [float(table.accuracies[0]) for table in networks]
    mean, asked = float(np.mean(values)), int(counts.sum())
    return _score(values, mean * (1 - mean) / asked, asked)


def group_score(*networks: ScoreTable) -> Score:
    """Returns the unweighted mean over tasks, with its interval (see `_score`).

    Several tasks are asked about one cluster (a page, an image), and one that is hard
    to read is hard for all of them, so the cluster is the unit that varies. The
    influence of a cluster with scores x is

        d_c = mean over tasks t of sum over x_ct of (x - accuracy_t) / n_t,

    and se^2 = C/(C-1) * sum over clusters of d_c^2 (the linearised cluster estimator;
    with every task asked once about every cluster it is the usual standard error of
    the clusters' means).

    Args:
      *networks: of each network that was trained alike, on the same examples.
    """
    sums = np.mean([table.sums for table in networks], axis=0)
    asked = networks[0].counts
    counts = asked.sum(axis=0)
    accuracy = sums.sum(axis=0) / counts
    influence = (sums - asked * accuracy) / counts
    per_cluster = influence.mean(axis=1)
    clusters = int(asked.any(axis=1).sum())
    variance = float(np.sum(per_cluster**2)) * clusters / max(clusters - 1, 1)
    values = [float(table.accuracies.mean()) for table in networks]
    return _score(values, variance, clusters)


def scores_by_name(
    tables: Sequence[ScoreTable],
    tasks: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Score]:
    """Returns the score of every group, then of every task.

    Args:
      tables: of networks that were trained alike. tasks: names of their columns.
    """
    scores = {}
    for group, names in groups.items():
        columns = [tasks.index(name) for name in names]
        scores[group] = group_score(*(table.of_tasks(columns) for table in tables))
    for column, name in enumerate(tasks):
        scores[name] = task_score(*(table.of_tasks([column]) for table in tables))
    return scores


def _score(values: Sequence[float], of_clusters: float, clusters: int) -> Score:
    """Returns the mean of the networks' accuracies with a 95 % interval.

    Of one network: how sure its accuracy is given that others might have been asked
    about. Of several: how sure their mean is given that and other training seeds,

        se^2 = variance over clusters + (variance between networks) / their number,

    with the quantile of Student's t at the degrees of freedom of Welch (1947) and
    Satterthwaite (1946); in trials with three seeds it holds the truth 93 to 98 times
    in a hundred. The interval is Wilson's with the sample size that would give
    this se, since a symmetric one fails near 100 %.

    Args:
      of_clusters: variance of the mean over clusters.
    """
    value, count = float(np.mean(values)), len(values)
    between = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    variance, quantile = of_clusters + between, Z95
    if variance <= 1e-18:
        # Nothing varies: say no more than the number of clusters allows.
        return Score(value, *wilson_interval(value, clusters))
    if count > 1:
        parts = of_clusters**2 / max(clusters - 1, 1) + between**2 / (count - 1)
        quantile = float(scipy.special.stdtrit(variance**2 / parts, 0.975))
    size = value * (1 - value) / variance
    return Score(value, *wilson_interval(value, size, quantile))


def spread(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Returns {name: {"std", "values"}} over seeds; std is that of a sample."""
    return {
        name: {"std": float(np.std(each, ddof=1)), "values": list(each)}
        for name, each in values.items()
    }


def wilson_interval(proportion: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion in n trials (95 % by default).

    Wilson (1927); n need not be whole: an effective sample size will do.

    Raises:
      ValueError: for a proportion outside 0..1 or n that is not above 0.
    """
    if not 0 <= proportion <= 1 or not n > 0:
        raise ValueError(f"{proportion=} must be in 0..1 and {n=} above 0.")
    scale = 1 + z**2 / n
    centre = (proportion + z**2 / (2 * n)) / scale
    spread = proportion * (1 - proportion) / n + z**2 / (4 * n**2)
    half = z / scale * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)
