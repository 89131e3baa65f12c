"""Measures how long a forward pass takes at each budget.

Timed is the prefill of one question per page as at inference: vision tower, projector,
decoder, and the logits at each prompt's last word; from arrays on the device to logits
on the device, compilation and data loading apart. Programs take turns, so that whatever
else the machine does meets all of them alike, and the median is reported.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.evals.harness import check_plan
from visor_jax.evals.pages.benchmark import EvaluationSet
from visor_jax.models.vlm import VLM, begin_batch

Params = Any
Program = Callable[[], Array]

BATCH = 32
RUNS = 15
WARM_UP = 2


def describe(batch_size: int = BATCH, runs: int = RUNS) -> str:
    """Returns one sentence that says what `ms_per_sample` is."""
    return (
        f"Time per page of a prefill of {batch_size} pages with one question each "
        "(vision tower, projector, decoder, logits at the last word), median of "
        f"{runs} runs after warm-up, budgets taking turns; compilation and data "
        "loading not included."
    )


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def last_logits(
    model: VLM, params: Params, batch: Batch, gates: tuple[bool, ...]
) -> Float[Array, "B W"]:
    """Returns the logits of the word that follows each prompt."""

    def forward(module: VLM) -> Array:
        done, _ = module.run(begin_batch(module, batch), gates)
        last = jnp.sum(batch.text_mask, axis=1) - 1
        return module.logits(done.text, last[:, None])[:, 0]

    return model.apply({"params": params}, method=forward)


def budget_programs(
    model: VLM,
    params: Params,
    budgets: BudgetSet,
    evaluation_set: EvaluationSet,
    *,
    batch_size: int = BATCH,
) -> dict[str, Program]:
    """Returns {budget name: a call that runs the prefill once}.

    Raises:
      ValueError: if the budgets are of another plan than the model.
    """
    check_plan(model, budgets)
    batch = jax.device_put(evaluation_set.prompts(batch_size))
    return {
        budget.name: functools.partial(
            last_logits, model, params, batch, budget.gates(budgets.plan)
        )
        for budget in budgets
    }


def time_programs(
    programs: Mapping[Any, Program], *, runs: int = RUNS, warm_up: int = WARM_UP
) -> dict[Any, float]:
    """Returns the median seconds of each program, which run in turn.

    Raises:
      ValueError: for fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"{runs=} must be at least 1.")
    for _ in range(warm_up):
        for program in programs.values():
            jax.block_until_ready(program())
    seconds: dict[Any, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def time_budgets(
    model: VLM,
    params: Params,
    budgets: BudgetSet,
    evaluation_set: EvaluationSet,
    *,
    batch_size: int = BATCH,
    runs: int = RUNS,
) -> dict[str, float]:
    """Returns {budget name: milliseconds per page}; see the module for what is timed.

    Raises:
      ValueError: if the budgets are of another plan than the model.
    """
    programs = budget_programs(
        model, params, budgets, evaluation_set, batch_size=batch_size
    )
    seconds = time_programs(programs, runs=runs)
    return {name: 1e3 * each / batch_size for name, each in seconds.items()}
