"""Part 4: tokens written a second, beside what the memory's bandwidth allows.

bytes: parameters, keys and values, which every step reads once.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from visor_jax.flops.account import account
from visor_jax.timing.accelerator import network, prefill
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    Program,
    attempted,
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
    jobs, caches = {}, {}
    for name, (config, budget) in chosen.items():
        gates = budget.gates(config.plan)
        given = of_dense if name == "dense" else params
        for batch in batches:
            make = functools.partial(
                network.filled_cache,
                size,
                config,
                gates,
                rows=batch,
                new_tokens=_STEPS,
            )
            caches[name, batch] = make
            run = network.decode(config, gates, _STEPS)
            jobs[name, batch] = Job(run, (given, jax.eval_shape(make)), donate=(1,))
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
        given, cache = jobs[name, batch].arguments
        config, budget = chosen[name]
        counted = account(config, budget, **size.lengths, crops=0, batch=batch)
        row["flops"] = counted.decode_per_token(size.text_tokens + _STEPS)
        row["bytes"] = _bytes(given["language_model"]) + _bytes(cache)
        measured = functools.partial(
            _times, program, given, caches[name, batch], batch, deadline
        )
        yield attempted(row, measured)


def _times(
    program: Program,
    params: Any,
    make_cache: Callable[[], Any],
    rows: int,
    deadline: Deadline,
) -> dict[str, float]:
    held = [make_cache()]

    def run() -> None:
        _, held[0] = program.run(params, held[0])
        jax.block_until_ready(held[0])

    times = times_of(run, deadline, each=_STEPS) | {"compile_s": program.seconds}
    return times | {"tokens_per_s": 1e3 * rows / times["ms"]}


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
