"""Part 5: a step of universal training with traced gates, in the 0.5B network's widths.

Of its layers there are three groups, and of the tower's blocks a third: all of them
would compile for minutes, and each takes what its like takes.

One program for all budgets, as in training; the schedule draws each in turn. FLOPs are
three times those of the forward pass: what is computed again is no work done.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from visor_jax.budget import BudgetSet
from visor_jax.flops.account import account
from visor_jax.models.variants import visor_plan
from visor_jax.models.vlm import VLM
from visor_jax.timing.accelerator import network, prefill
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    compile_all,
    times_of,
)
from visor_jax.timing.accelerator.network import Size
from visor_jax.timing.accelerator.record import Row
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    Step,
    make_universal_step,
)
from visor_jax.training.optimizer import OptimizerSettings, make_optimizer
from visor_jax.training.state import TrainState

_ROWS = 4
# A run of so many steps, of which every budget has an equal share.
_STEPS = 300


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields the step with all gates off, half of them on, and all on."""
    size = network.size("0.5B", tiny=tiny)
    if not tiny:
        size = _third(size)
    plan, count = size.config.plan, 2 if tiny else _ROWS
    names = [name for name in prefill.plans(size, every=False) if name != "dense"]
    budgets = BudgetSet.parse(names, plan)
    step, state = _step(size, budgets)
    batch = network.training_batch(size, rows=count)
    program = compile_all({"step": Job(step, (state, batch), (0,))}, deadline)["step"]
    if isinstance(program, Exception):
        raise program
    held = [state]
    del state

    def run() -> None:
        held[0] = jax.block_until_ready(program.run(held[0], batch))

    for index, budget in enumerate(budgets):
        first = jnp.asarray(index * _STEPS // len(budgets), jnp.int32)
        held[0] = held[0].replace(step=first)
        times = times_of(run, deadline)
        counted = account(
            size.config, budget, **size.lengths, crops=size.crops, batch=count
        )
        yield {
            "what": "step",
            "shape": f"{size.name}, {size.image_tokens} + {size.text_tokens}, "
            f"{size.crops} crops, {plan.num_layers} layers",
            "rows": count,
            "budget": budget.name,
            **times,
            "compile_s": program.seconds,
            "temp_bytes": program.temp_bytes,
            "flops": 3 * counted.end_to_end,
        }


def _third(size: Size) -> Size:
    """Returns a third of the network, with the prompt of a usual picture."""
    blocks = dataclasses.replace(size.config.vision, num_layers=9)
    config = size.config.replace(plan=visor_plan(9), vision=blocks)
    return dataclasses.replace(
        size, config=config, crops=5, image_tokens=2944, text_tokens=1024
    )


def _step(size: Size, budgets: BudgetSet) -> tuple[Step, TrainState]:
    """Returns the step, and a state of random float32 parameters."""
    settings = OptimizerSettings(learning_rate=1e-5)
    optimizer = make_optimizer(settings, _STEPS)
    phases = tuple(
        SchedulePhase((i + 1) / len(budgets), {budget.name: 1.0})
        for i, budget in enumerate(budgets)
    )
    schedule = BudgetSchedule(budgets, phases, _STEPS)
    model, objective = VLM(size.config), ObjectiveSettings()
    step = make_universal_step(model, optimizer, schedule, objective, frozen=())
    state = TrainState.create(
        network.random_params(size.config, "float32"),
        optimizer,
        (),
        seed=0,
        num_budgets=len(budgets),
    )
    return step, LayerStacks.of(model, settings, state.params).stack(state)
