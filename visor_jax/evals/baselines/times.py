"""Times all conditions in one run, taking turns, choosing and merging included.

Timed is a prefill: tower, what drops tokens, projector, decoder, the cache that
decoding goes on from, and the logits at each prompt's last token; from arrays on the
device to arrays on the device. Every condition is a program of its own, made of the
same parts.

Where there are more of them than a process can hold (`runtime.memory_maps`), they take
turns in groups, one after the other, and the first two conditions are in all of them.
Times are scaled by the first one's, to those of the first group: a machine that has
become slower between two groups is slower for all. How far that holds the second one
says, whose scaled times should be the same.
"""

import collections
import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from visor_jax.batch import Batch
from visor_jax.evals import timing
from visor_jax.evals.baselines.conditions import Condition
from visor_jax.evals.baselines.measure import Subject
from visor_jax.evals.benchmark import Benchmark
from visor_jax.inference.generation.prefill import Prefilled, prefill
from visor_jax.inference.loading.network import Network
from visor_jax.runtime.memory_maps import has_room, let_programs_go
from visor_jax.runtime.stopwatch import take_turns

BATCHES = (1, 32)
RUNS = 15
WARM_UP = 2

# A condition's name, rows of a batch.
_Key = tuple[str, int]
_Run = Callable[[], Prefilled]
# {name of a condition: {rows of a batch: milliseconds a row}}
Times = dict[str, dict[int, float]]


@dataclasses.dataclass(frozen=True)
class Timed:
    """Times of all conditions, scaled, and in each group two of its own.

    first: the first condition's, not scaled. second: the second one's, scaled; none in
    older files.
    """

    times: Times
    first: list[dict[int, float]]
    second: list[dict[int, float]] = dataclasses.field(default_factory=list)


def describe(cluster_name: str, timed: Timed) -> str:
    """Returns what the times are, in words."""
    sizes = " and ".join(map(str, BATCHES))
    of_all = "all conditions" if len(timed.first) < 2 else "the conditions of a group"
    return (
        f"Milliseconds per {cluster_name} of a prefill of {sizes} {cluster_name}s with "
        "one question each (vision tower, choosing and merging tokens, projector, "
        f"decoder, logits at the last word): median of {RUNS} runs after warm-up, "
        f"{of_all} in both sizes taking turns in one run, every other round in "
        f"reverse; compilation and data loading not included.{_of_groups(timed)}"
    )


def _of_groups(timed: Timed) -> str:
    if len(timed.first) < 2:
        return ""
    said = (
        f" They are more programs than a process holds: {len(timed.first)} groups, "
        f"scaled by the first condition, which is in each ({_spread(timed.first)})."
    )
    if timed.second:
        said += (
            " How far to trust a comparison between groups: the second condition, in "
            f"each as well, scaled: {_spread(timed.second)}."
        )
    return said


def _spread(groups: Sequence[Mapping[int, float]]) -> str:
    """Returns the least and the most of all groups, by rows of a batch."""
    return ", ".join(
        f"{min(taken):.2f} to {max(taken):.2f} ms at {rows}"
        for rows in groups[0]
        for taken in [[group[rows] for group in groups]]
    )


def milliseconds(
    subjects: Mapping[str, Subject],
    conditions: Sequence[Condition],
    benchmark: Benchmark,
    *,
    batches: Sequence[int] = BATCHES,
    runs: int = RUNS,
    progress: Callable[[int], None] = lambda compiled: None,
    room: Callable[[], bool] = has_room,
) -> Timed:
    """Returns the median times of all conditions.

    Args:
      subjects: by the network's name in conditions; one seed of each.
      progress: called with how many programs have been compiled.
      room: whether a group can have one more condition.
    """
    made = functools.partial(_programs, subjects, benchmark, batches)
    found: Times = {condition.name: {} for condition in conditions}
    first, second, waiting = [], [], collections.deque(conditions)
    while waiting:
        programs = {}
        for condition in conditions[:2] if first else ():
            programs |= made(condition)
        programs |= made(waiting.popleft())
        # The second condition belongs to the first group, too.
        while waiting and (room() or len(conditions) - len(waiting) < 2):
            programs |= made(waiting.popleft())
            progress(len(batches) * (len(conditions) - len(waiting)))
        seconds = take_turns(programs, runs=runs, warm_up=WARM_UP, there_and_back=True)
        taken = {key: _middle(each, key[1]) for key, each in seconds.items()}
        first.append({rows: taken[conditions[0].name, rows] for rows in batches})
        scaled = {
            key: ms * first[0][key[1]] / first[-1][key[1]] for key, ms in taken.items()
        }
        second.append({rows: scaled[conditions[:2][-1].name, rows] for rows in batches})
        for (name, rows), ms in scaled.items():
            # Of the second condition, the first group's.
            found[name].setdefault(rows, ms)
        programs.clear()
        let_programs_go()
    progress(len(batches) * len(conditions))
    return Timed(found, first, second)


def _middle(seconds: Sequence[float], rows: int) -> float:
    """Returns the median in milliseconds a row."""
    return 1e3 * statistics.median(seconds) / rows


def _programs(
    subjects: Mapping[str, Subject],
    benchmark: Benchmark,
    batches: Sequence[int],
    condition: Condition,
) -> dict[_Key, _Run]:
    """Returns the condition's programs, compiled: one after the other."""
    network, found = subjects[condition.network].at(condition), {}
    for rows in batches:
        batch = timing.prompts(network, benchmark, rows)
        found[condition.name, rows] = run = _program(network, condition, batch)
        jax.block_until_ready(run())
    return found


def _program(network: Network, condition: Condition, batch: Batch) -> _Run:
    """Returns a call that prefills these prompts.

    It has a `jax.jit` of its own: `bounded_jit` would let programs go, since there are
    more conditions than it keeps.
    """
    model, budget = network.vlm, condition.budget

    @jax.jit
    def run(params: Any, batch: Batch) -> Prefilled:
        return prefill(model, params, batch, budget)

    return functools.partial(run, network.params, jax.device_put(batch))
