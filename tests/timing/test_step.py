"""The step's time at the smallest and the largest budget, on a tiny network."""

import dataclasses

import pytest

from configs import universal
from tests.inference import page_run
from visor_jax.budget import BudgetSet
from visor_jax.settings.read import read_settings
from visor_jax.timing.step import step_times
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import ObjectiveSettings


@pytest.mark.slow
def test_both_ends_are_timed():
    run = read_settings(universal.get_config())
    budgets = BudgetSet.parse(["none", "all"], page_run.CONFIG.plan)
    phases = (SchedulePhase(1.0, {"any": 1.0}),)
    run = dataclasses.replace(
        run,
        model=page_run.CONFIG,
        budgets=budgets,
        schedule=BudgetSchedule(budgets, phases, run.loop.steps),
        objective=ObjectiveSettings(),
        data=dataclasses.replace(run.data, batch_size=2),
    )
    times = step_times(run, 2)
    assert list(times) == [budgets.smallest, budgets.largest]
    assert all(0 < seconds < 60 for seconds in times.values())
