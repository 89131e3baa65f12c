"""Times all conditions in one run, taking turns, choosing and merging included.

Timed is a prefill: tower, what drops tokens, projector, decoder, the cache that
decoding goes on from, and the logits at each prompt's last token; from arrays on the
device to arrays on the device. Every condition is a program of its own, made of the
same parts.
"""

import functools
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
from visor_jax.runtime.stopwatch import take_turns

BATCHES = (1, 32)
RUNS = 15
WARM_UP = 2

# {name of a condition: {rows of a batch: milliseconds a row}}
Times = dict[str, dict[int, float]]


def describe(cluster_name: str) -> str:
    """Returns a sentence that says what the times are."""
    sizes = " and ".join(map(str, BATCHES))
    return (
        f"Milliseconds per {cluster_name} of a prefill of {sizes} {cluster_name}s with "
        "one question each (vision tower, choosing and merging tokens, projector, "
        f"decoder, logits at the last word): median of {RUNS} runs after warm-up, all "
        "conditions of both sizes taking turns in one run, every other round in "
        "reverse; compilation and data loading not included."
    )


def milliseconds(
    subjects: Mapping[str, Subject],
    conditions: Sequence[Condition],
    benchmark: Benchmark,
    *,
    batches: Sequence[int] = BATCHES,
    runs: int = RUNS,
    progress: Callable[[int], None] | None = None,
) -> Times:
    """Returns the median times of all conditions.

    Args:
      subjects: by the network's name in conditions; one seed of each.
      progress: called with how many programs have been compiled.
    """
    programs: dict[tuple[str, int], Callable[[], Prefilled]] = {}
    for condition in conditions:
        network = subjects[condition.network].at(condition)
        for rows in batches:
            batch = timing.prompts(network, benchmark, rows)
            program = _program(network, condition, batch)
            # Compiled here, one after the other, so that progress can be told.
            jax.block_until_ready(program())
            programs[condition.name, rows] = program
            if progress is not None:
                progress(len(programs))
    found: Times = {condition.name: {} for condition in conditions}
    seconds = take_turns(programs, runs=runs, warm_up=WARM_UP, there_and_back=True)
    for (name, rows), taken in seconds.items():
        middle = sorted(taken)[len(taken) // 2]
        found[name][rows] = 1e3 * middle / rows
    return found


def _program(
    network: Network, condition: Condition, batch: Batch
) -> Callable[[], Prefilled]:
    """Returns a call that prefills these prompts.

    It has a `jax.jit` of its own: `bounded_jit` would let programs go, since there are
    more conditions than it keeps.
    """
    model, budget = network.vlm, condition.budget

    @jax.jit
    def run(params: Any, batch: Batch) -> Prefilled:
        return prefill(model, params, batch, budget)

    return functools.partial(run, network.params, jax.device_put(batch))
