"""Part 2: does a saving of FLOPs become a saving of time when a prompt is read?

The decoder alone, the tower (with the projector) alone, and both together, which is
their sum: one follows the other.
"""

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
    compile_all,
    failure,
    program_times,
)
from visor_jax.timing.accelerator.network import Size
from visor_jax.timing.accelerator.record import Row

# What matters most comes first, should time run out. (network, rows, every budget)
_GROUPS = (("0.5B", 8, True), ("7B", 1, False), ("0.5B", 1, False), ("7B", 8, False))
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
    tower = None
    for name, program in programs.items():
        if isinstance(program, Exception):
            yield {"what": "decoder", **where, "budget": name} | {
                "failed": failure(program)
            }
            continue
        times = program_times(program, *jobs[name].arguments, deadline=deadline)
        times["temp_bytes"] = program.temp_bytes
        config, budget = chosen.get(name, chosen["dense"])
        counted = account(
            config,
            budget,
            **size.lengths,
            crops=size.crops,
            logit_positions=1,
            batch=batch,
        )
        if name == "tower":
            flops = counted.tower.total + counted.projector
            tower = {"what": "tower", **where, **times, "flops": flops}
            yield tower
            continue
        row = {"what": "decoder", **where, "budget": name, **times}
        yield row | {"flops": counted.llm_prefill}
        if tower is not None:
            both = {key: tower[key] + times[key] for key in ("ms", "spread")}
            what = {"what": "tower + decoder", **where, "budget": name}
            yield what | both | {"flops": counted.end_to_end}
    jax.clear_caches()
