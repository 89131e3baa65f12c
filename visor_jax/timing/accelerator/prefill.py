"""Part 2: does a saving of FLOPs become a saving of time when a prompt is read?

The decoder alone, the tower (with the projector) alone, and both together, which is
their sum: one follows the other.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax

from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense
from visor_jax.timing.accelerator import network
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    attempted,
    compile_all,
    failure,
    program_times,
)
from visor_jax.timing.accelerator.network import Size
from visor_jax.timing.accelerator.record import Row

# What matters most comes first, should time run out: network, rows, and whether every
# budget is asked, or the extremes and the one in the middle.
_GROUPS = (
    *(("0.5B", 8, False), ("7B", 1, False), ("0.5B", 1, False), ("7B", 8, False)),
    ("0.5B", 8, True),
)
# Seconds without which no group is begun.
_LEAST_S = 25.0


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields tower, decoder and both, for every budget and the dense plan."""
    params: tuple[str, Any] = ("", None)
    for name, batch, every in _GROUPS[:1] if tiny else _GROUPS:
        deadline.check(0.0 if tiny else _LEAST_S)
        size = network.size(name, tiny=tiny)
        if params[0] != name:
            # One after the other: two sets of parameters may not fit.
            params = ("", None)
            params = (name, network.random_params(size.config))
        yield from _group(size, params[1], batch, every, deadline)


def plans(size: Size, *, every: bool) -> dict[str, tuple[VLMConfig, Budget]]:
    """Returns the network's budgets (every number of layers, or none, half, all) and
    the dense plan, by name; the extremes first."""
    plan, full = size.config.plan, dense(size.config)
    most = len(plan.self_layers)
    counts = range(most + 1) if every else (0, most // 2, most)
    ends_first = sorted(counts, key=lambda n: 0 < n < most)
    budgets = [Budget.spread(n, plan) for n in ends_first]
    found = {"dense": (full, Budget.all(full.plan))}
    return found | {budget.name: (size.config, budget) for budget in budgets}


def _group(
    size: Size, params: Any, batch: int, every: bool, deadline: Deadline
) -> Iterator[Row]:
    prompts, pixels = (
        make(size, rows=batch) for make in (network.prompts, network.pixels)
    )
    of_dense = network.params_of_dense(params)
    chosen = plans(size, every=every)
    jobs = {"tower": Job(network.tower(size), (params, pixels))}
    for name, (config, budget) in chosen.items():
        run = network.prefill(config, budget.gates(config.plan))
        given = of_dense if name == "dense" else params
        jobs[name] = Job(run, (given, prompts))
    programs = compile_all(jobs, deadline)
    where = {"shape": f"{size.name}, {size.image_tokens} + {size.text_tokens}"}
    where["rows"] = batch
    tower: Row = {}
    for name, program in programs.items():
        if isinstance(program, Exception):
            yield {"what": "decoder", **where, "budget": name} | {
                "failed": failure(program)
            }
            continue
        config, budget = chosen.get(name, chosen["dense"])
        counted = account(
            config,
            budget,
            **size.lengths,
            crops=size.crops,
            logit_positions=1,
            batch=batch,
        )
        row = {"what": "decoder", **where, "budget": name, "flops": counted.llm_prefill}
        if name == "tower":
            flops = counted.tower.total + counted.projector
            row = {"what": "tower", **where, "flops": flops}
        arguments = jobs[name].arguments
        measured = functools.partial(
            program_times, program, *arguments, deadline=deadline
        )
        row = attempted(row | {"temp_bytes": program.temp_bytes}, measured)
        yield row
        if name == "tower":
            tower = row
        elif "ms" in tower and "ms" in row:
            both = {key: tower[key] + row[key] for key in ("ms", "spread")}
            what = {"what": "tower + decoder", **where, "budget": name}
            yield what | both | {"flops": counted.end_to_end}
    jax.clear_caches()
