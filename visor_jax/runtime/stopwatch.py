"""Times programs that take turns, so that all meet the same machine.

    round 0   a b c     warm-up: compiles, and is not counted
    round 1   a b c     (there and back: c b a)
    round 2   a b c

Whatever else the machine does in a round meets all programs of it alike. Medians are
reported: a round that was disturbed counts no more than another.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

Name = TypeVar("Name", bound=Hashable)


def take_turns(
    programs: Mapping[Name, Callable[[], Any]],
    *,
    runs: int,
    warm_up: int = 1,
    there_and_back: bool = False,
) -> dict[Name, list[float]]:
    """Returns the seconds of every counted run of each program, in their order.

    A run ends when the arrays that its program returns are there.

    Args:
      runs: that are counted, of each. warm_up: rounds before that are not.
      there_and_back: whether every other round is in reverse, so that no program always
        follows the same one.

    Raises:
      ValueError: for fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"{runs=} must be at least 1.")
    seconds: dict[Name, list[float]] = {name: [] for name in programs}
    for turn in range(warm_up + runs):
        back = there_and_back and turn % 2
        for name in reversed(programs) if back else programs:
            began = time.perf_counter()
            jax.block_until_ready(programs[name]())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def median_seconds(
    programs: Mapping[Name, Callable[[], Any]], *, runs: int, warm_up: int = 1
) -> dict[Name, float]:
    """Returns the median of `take_turns`, whose arguments and errors these are."""
    taken = take_turns(programs, runs=runs, warm_up=warm_up)
    return {name: statistics.median(each) for name, each in taken.items()}
