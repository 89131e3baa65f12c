"""Which packed answers are right, and how sure an accuracy is.

An answer is right if the most likely token is the target at ALL places where the answer
is predicted (its words and the end), given the question and the right answer before
that place. This equals greedy decoding being exactly right. If every place is right,
greedy decoding writes the right words one after another, so that what it sees is what
teacher forcing shows. If some place is wrong, greedy decoding is right up to the first
of them, sees the same there, and makes the same mistake.

    words      bar  B  :  4            targets    B  :  4  <eos>
    loss_mask  0    0  1  1            predicted  1  2  4  <eos>   right: 4 and <eos>
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

# Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """One element per question, in the order of pages and then of tasks.

    pages, tasks: (n,) indices of the page in its pool and of the task.
    predicted, targets: (n,) token id of the first word of the answer.
    correct: (n,) bool, whether the whole answer and its end are right.
    """

    pages: np.ndarray
    tasks: np.ndarray
    predicted: np.ndarray
    targets: np.ndarray
    correct: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Answers"]) -> "Answers":
        """Returns the answers of all parts, one after another."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            **{n: np.concatenate([getattr(part, n) for part in parts]) for n in names}
        )

    def __len__(self) -> int:
        return len(self.correct)


@dataclasses.dataclass(frozen=True)
class Score:
    """An accuracy in 0..1 and its 95 % interval."""

    value: float
    low: float
    high: float


def correct_table(answers: Answers, num_tasks: int) -> np.ndarray:
    """Returns (pages, tasks) float: 1 right, 0 wrong, NaN not asked.

    Raises:
      ValueError: if a page was asked the same task twice.
    """
    pages, row = np.unique(answers.pages, return_inverse=True)
    table = np.full((len(pages), num_tasks), np.nan)
    table[row, answers.tasks] = answers.correct
    if np.count_nonzero(~np.isnan(table)) != len(answers):
        raise ValueError("A page was asked the same task more than once.")
    return table


def task_score(*networks: np.ndarray) -> Score:
    """Returns the accuracy on one task, with its interval (see `_score`).

    The variance over pages of a mean over networks is taken to be that of one network,
    which is the careful choice.

    Args:
      *networks: (pages,) of each network that was trained alike, on the same pages.
    """
    asked = ~np.isnan(networks[0])
    values = [float(correct[asked].mean()) for correct in networks]
    mean, pages = float(np.mean(values)), int(asked.sum())
    return _score(values, mean * (1 - mean) / pages, pages)


def group_score(*networks: np.ndarray) -> Score:
    """Returns the unweighted mean over tasks, with its interval (see `_score`).

    All tasks are asked about the same pages, and a page that is hard to read is hard
    for several of them, so the page is the unit that varies. A page's influence is
    d_p = mean over tasks t of (correct_pt - accuracy_t) / n_t, and
    se^2 = P/(P-1) * sum over pages of d_p^2 (the linearised cluster estimator; with
    every task asked on every page it is the usual standard error of the page means).

    Args:
      *networks: (pages, tasks of the group) of each network that was trained alike.
    """
    correct = np.mean(networks, axis=0)
    asked = ~np.isnan(correct)
    counts = asked.sum(axis=0)
    accuracy = np.where(asked, correct, 0.0).sum(axis=0) / counts
    influence = np.where(asked, correct - accuracy, 0.0) / counts
    per_page = influence.mean(axis=1)
    pages = len(per_page)
    variance = float(np.sum(per_page**2)) * pages / max(pages - 1, 1)
    values = [float(np.nanmean(table, axis=0).mean()) for table in networks]
    return _score(values, variance, pages)


def _score(values: Sequence[float], of_pages: float, pages: int) -> Score:
    """Returns the mean of the networks' accuracies with a 95 % interval.

    Of one network: how sure its accuracy is given that other pages might have been
    asked. Of several: how sure their mean is given that and other training seeds,

        se^2 = variance over pages + (variance between networks) / their number,

    with the quantile of Student's t at the degrees of freedom of Welch (1947) and
    Satterthwaite (1946); in trials with three seeds it holds the truth 93 to 98 times
    in a hundred. The interval is Wilson's with the sample size that would give
    this se, since a symmetric one fails near 100 %.

    Args:
      of_pages: variance of the mean over pages.
    """
    value, count = float(np.mean(values)), len(values)
    between = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    variance, quantile = of_pages + between, Z95
    if variance <= 1e-18:
        # Nothing varies: say no more than the number of pages allows.
        return Score(value, *wilson_interval(value, pages))
    if count > 1:
        parts = of_pages**2 / max(pages - 1, 1) + between**2 / (count - 1)
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
