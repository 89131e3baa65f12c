"""Part 4: tokens written a second, beside what the memory's bandwidth allows.

bytes: parameters, keys and values, which every step reads once.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax

from visor_jax.flops.account import account
from visor_jax.timing.accelerator import network, prefill
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    Program,
    compile_all,
    failure,
    times_of,
)
from visor_jax.timing.accelerator.network import Size
from visor_jax.timing.accelerator.record import Row

_GROUPS = (("0.5B", (1, 8, 32)), ("7B", (1, 8)))
# Tokens of a run.
_STEPS = 16
# Seconds without which no network is begun.
_LEAST_S = 20.0


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields a row for the smallest and the largest budget and the dense plan."""
    for name, batches in (("0.5B", (1, 2)),) if tiny else _GROUPS:
        deadline.check(0.0 if tiny else _LEAST_S)
        size = network.size(name, tiny=tiny)
        params = network.random_params(size.config)
        yield from _network(size, params, batches, deadline)
        del params


def _network(
    size: Size, params: Any, batches: tuple[int, ...], deadline: Deadline
) -> Iterator[Row]:
    of_dense = network.params_of_dense(params)
    plans = prefill.plans(size, every=False)
    chosen = {name: plans[name] for name in ("dense", *list(plans)[1:3])}
    jobs, abstract = {}, {}
    for name, (config, budget) in chosen.items():
        gates = budget.gates(config.plan)
        given = of_dense if name == "dense" else params
        for batch in batches:
            cache = network.abstract_cache(
                size, config, gates, given, rows=batch, new_tokens=_STEPS
            )
            abstract[name, batch] = cache
            run = network.decode(config, gates, _STEPS)
            jobs[name, batch] = Job(run, (given, cache), donate=(1,))
    programs = compile_all(jobs, deadline)
    for (name, batch), program in programs.items():
        row = {
            "what": "step",
            "shape": f"{size.name}, {size.image_tokens} + {size.text_tokens}",
            "rows": batch,
            "budget": name,
        }
        if isinstance(program, Exception):
            yield row | {"failed": failure(program)}
            continue
        config, budget = chosen[name]
        given = jobs[name, batch].arguments[0]
        cache = network.filled_cache(size, abstract[name, batch])
        read = _bytes(given["language_model"]) + _bytes(cache)
        times = _times(program, given, cache, deadline)
        counted = account(config, budget, **size.lengths, crops=0, batch=batch)
        yield (
            row
            | times
            | {
                "flops": counted.decode_per_token(size.text_tokens + _STEPS),
                "bytes": read,
                "tokens_per_s": 1e3 * batch / times["ms"],
            }
        )
        del cache


def _times(program: Program, params: Any, cache: Any, deadline: Deadline) -> dict:
    held = [cache]

    def run() -> None:
        _, held[0] = program.run(params, held[0])
        jax.block_until_ready(held[0])

    return times_of(run, deadline, each=_STEPS) | {"compile_s": program.seconds}


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
