"""Times the universal training step at its smallest and its largest budget.

    python -m visor_jax.timing.step --config=configs/universal.py [--steps=20]

One compiled program for both, as in training; only the drawn budget differs. The two
are timed in turn, on random data of the configuration's shapes. Beside the times stand
the FLOPs of the forward pass: where conditionals really skip, the ratios agree roughly.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()
    flags.DEFINE_integer("steps", 20, "Timed steps at each budget.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import functools

import jax
import jax.numpy as jnp

from visor_jax.budget import Budget
from visor_jax.data.pages.pool.pool import make_pool
from visor_jax.flops.account import account
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.machine import machine_description
from visor_jax.runtime.stopwatch import median_seconds
from visor_jax.settings.read import read_settings
from visor_jax.settings.run_settings import UniversalSettings
from visor_jax.tasks import training_data
from visor_jax.tasks.trained_parameters import check_groups
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training import initial_state
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import make_universal_step
from visor_jax.training.optimizer import make_optimizer
from visor_jax.training.state import TrainState

_WARM_UP = 3


def step_times(run: UniversalSettings, steps: int) -> dict[Budget, float]:
    """Returns the median seconds of a step at the smallest and the largest budget."""
    pool = make_pool("train", max(64, run.data.batch_size), seed=run.seed)
    batch = jax.device_put(
        training_data.page_data(pool, run.data.pages, 1, None).example
    )
    model, frozen = as_trained(run.model), run.optimizer.frozen
    optimizer = make_optimizer(run.optimizer, run.loop.steps)
    smallest, largest = run.budgets.smallest, run.budgets.largest
    # The first half of the run has the one budget, the second half the other.
    phases = (
        SchedulePhase(0.5, {smallest.name: 1.0}),
        SchedulePhase(1.0, {largest.name: 1.0}),
    )
    schedule = BudgetSchedule(run.budgets, phases, run.loop.steps)
    step = jax.jit(
        make_universal_step(
            model,
            optimizer,
            schedule,
            run.objective,
            frozen,
            run.optimizer.accumulate,
        ),
        donate_argnums=0,
    )
    count = len(run.budgets)
    state = initial_state.fresh_state(
        model, optimizer, frozen, batch, seed=run.seed, num_budgets=count
    )
    state = LayerStacks.of(model, run.optimizer, state.params).stack(state)
    first_step = {smallest: 0, largest: run.loop.steps - 1}

    def train(number: int) -> TrainState:
        nonlocal state
        state = step(state.replace(step=jnp.asarray(number, jnp.int32)), batch)
        return state

    programs = {b: functools.partial(train, n) for b, n in first_step.items()}
    return median_seconds(programs, runs=steps, warm_up=_WARM_UP)


def forward_flops(run: UniversalSettings, budget: Budget) -> int:
    """Returns the FLOPs of one sample's forward pass in training."""
    counted = account(
        run.model,
        budget,
        text_tokens=run.data.pages.text_length,
        image_tokens=run.model.vision.num_patches,
        crops=1,
    )
    return counted.end_to_end


def main(arguments: list[str]) -> None:
    """Prints the table of times and FLOPs."""
    del arguments
    options = flags.FLAGS
    keep_freed_memory()
    with command_line.user_errors():
        run = read_settings(config_flag.config_of(options))
        if run.task != "universal" or run.data.kind != "pages":
            raise ValueError(
                "Only universal training on data that it draws itself can be timed."
            )
        check_groups(run)
    times = step_times(run, options.steps)
    print(f"{machine_description()}, batch {run.data.batch_size}, median of steps")
    print(f"{'budget':<12} {'ms/step':>8} {'ratio':>6} {'GFLOP':>8} {'ratio':>6}")
    slowest, dearest = max(times.values()), forward_flops(run, run.budgets.largest)
    for budget, seconds in times.items():
        flops = forward_flops(run, budget)
        print(
            f"{budget.name:<12} {1e3 * seconds:8.1f} {seconds / slowest:6.2f} "
            f"{flops / 1e9:8.3f} {flops / dearest:6.2f}"
        )
    print("GFLOP: matrix products of one sample's forward pass, tower included")


if __name__ == "__main__":
    command_line.run(main)
