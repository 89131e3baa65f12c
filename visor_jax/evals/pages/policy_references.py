"""What a policy is compared with: chance, a straight line, task names, an oracle.

    oracle   the cheapest budget that answers right, the cheapest of all if none does
             (`evals.policy_choices`)
    random   draws from the policy's own shares among the easy, or the hard questions:
             same mean cost in each group
    line     the best that mixing fixed budgets at random gives at that cost
    task     the best that one who only knows the task's name can do at that cost

The line and the task reference are fitted to the very answers they are judged by, which
makes them a little too good; what the policy gains over "task" is gained per sample.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from visor_jax.evals.pages.benchmark import GROUPS


def random_accuracy(
    chosen: Int[np.ndarray, "n"], table: Float[np.ndarray, "tasks budgets"], tasks
) -> dict[str, float]:
    """Returns the expected accuracy per group of a draw from the group's own shares.

    So the mean cost of each group is the policy's.

    Args:
      table: accuracy of every budget on every task. tasks: (n,) of each sample.
    """
    budgets = np.arange(table.shape[1])
    per_task = np.array(
        [(chosen[tasks == t, None] == budgets).mean(axis=0) for t in range(len(table))]
    )
    return {
        group: float(table[mine].mean(axis=0) @ per_task[mine].mean(axis=0))
        for group, mine in _members().items()
    }


def line_at(cost: float, costs: Sequence[float], accuracies: Sequence[float]) -> float:
    """Returns the accuracy of the best random mixture of fixed budgets at a cost."""
    return float(np.interp(cost, *_hull(np.asarray(costs), np.asarray(accuracies))))


def task_at(
    cost: float,
    costs: Float[np.ndarray, "budgets"],
    table: Float[np.ndarray, "tasks budgets"],
) -> float:
    """Returns the best mean accuracy over tasks at a mean cost, given task names alone.

    Every task may mix budgets at random. The sum of concave functions is largest where
    their slopes agree, so the steepest pieces of all hulls are bought first.
    """
    pieces, start_cost, start = [], 0.0, 0.0
    for row in table:
        x, y = _hull(costs, row)
        start_cost, start = start_cost + x[0], start + y[0]
        pieces += list(zip(np.diff(x), np.diff(y), strict=True))
    pieces.sort(key=lambda piece: -piece[1] / piece[0])
    x = np.cumsum([start_cost, *(p[0] for p in pieces)]) / len(table)
    y = np.cumsum([start, *(p[1] for p in pieces)]) / len(table)
    return float(np.interp(cost, x, y))


def task_table(
    correct: Bool[np.ndarray, "n budgets"],
    tasks: Int[np.ndarray, "n"],
    num_tasks: int,
) -> Float[np.ndarray, "tasks budgets"]:
    """Returns the accuracy of every budget on every task."""
    return np.array([correct[tasks == t].mean(axis=0) for t in range(num_tasks)])


def _members() -> Mapping[str, list[int]]:
    """Returns the task numbers of each group."""
    names = [name for group in GROUPS.values() for name in group]
    return {g: [names.index(n) for n in members] for g, members in GROUPS.items()}


def _hull(
    costs: Float[np.ndarray, "budgets"], values: Float[np.ndarray, "budgets"]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the upper concave hull of the points, up to the best value."""
    points: list[tuple[float, float]] = []
    for x, y in sorted(zip(costs.tolist(), values.tolist(), strict=True)):
        if points and y <= points[-1][1]:
            continue
        if points and x == points[-1][0]:
            points.pop()
        while len(points) > 1 and _is_below(points[-2], points[-1], (x, y)):
            points.pop()
        points.append((x, y))
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def _is_below(
    left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]
) -> bool:
    rise = (right[1] - left[1]) / (right[0] - left[0])
    return middle[1] <= left[1] + rise * (middle[0] - left[0])
