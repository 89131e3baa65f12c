"""The step's time at the smallest and the largest budget: what is off takes no time."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import universal
from tests.inference import page_run
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.layer_plan import LayerPlan
from visor_jax.settings.read import read_settings
from visor_jax.timing import step as step_time
from visor_jax.timing.step import step_times
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    make_universal_step,
)

# Nearly all the work is what the MLPs of the SELF layers make of the image, and none of
# it is kept for the backward pass: a layer that is off would fill its place with zeros.
CONFIG = page_run.CONFIG.replace(
    decoder=dataclasses.replace(page_run.CONFIG.decoder, mlp_width=4096),
    plan=LayerPlan.build(4, cross=(0,), self_=(1, 2, 3)),
    remat="layer",
)


def timed_run():
    run = read_settings(universal.get_config())
    budgets = BudgetSet.parse(["none", "all"], CONFIG.plan)
    phases = (SchedulePhase(1.0, {"any": 1.0}),)
    pages = PageDataSettings(batch_size=4, questions_per_page=1, text_length=16)
    return dataclasses.replace(
        run,
        model=CONFIG,
        budgets=budgets,
        schedule=BudgetSchedule(budgets, phases, run.loop.steps),
        objective=ObjectiveSettings(),
        optimizer=dataclasses.replace(run.optimizer, frozen=("^vision_tower/",)),
        data=dataclasses.replace(run.data, pages=pages),
    )


@pytest.fixture
def compiled(monkeypatch):
    """Returns a list; what is timed puts its program into it, as compiled."""
    programs = []

    def make(*arguments, **options):
        step = make_universal_step(*arguments, **options)

        def noted(state, batch):
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch)
            )
            programs.append(jax.jit(step).lower(*shapes).compile().as_text())
            return step(state, batch)

        return noted

    monkeypatch.setattr(step_time, "make_universal_step", make)
    return programs


def skips(times, budgets):
    """Whether the time is the drawn budget's; here it is a third of the other's."""
    return times[budgets.smallest] < 0.7 * times[budgets.largest]


@pytest.mark.slow
def test_a_layer_that_is_off_takes_no_time(compiled):
    run = timed_run()
    times = step_times(run, 5)
    assert list(times) == [run.budgets.smallest, run.budgets.largest]
    assert skips(times, run.budgets)
    (program,) = compiled
    # Forward and backward of each SELF layer.
    count = len(CONFIG.plan.self_layers)
    assert program.count(" conditional(") >= 2 * count


@pytest.mark.slow
def test_a_step_that_ignores_its_gates_is_seen_to_skip_nothing(compiled, monkeypatch):
    def all_on(schedule, index):
        del index
        return jnp.ones(len(schedule.budgets.plan.self_layers), bool)

    monkeypatch.setattr(BudgetSchedule, "gates", all_on)
    run = timed_run()
    assert not skips(step_times(run, 5), run.budgets)
    (program,) = compiled
    assert " conditional(" not in program
