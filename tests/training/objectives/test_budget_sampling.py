"""The draw of a step's budget: reproducible, and as likely as the schedule says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from visor_jax.budget import Budget, BudgetSet
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase

PLAN = tiny.VISOR.plan
EVERY = BudgetSet.parse(["every"], PLAN)
PHASES = (
    SchedulePhase(0.5, {"all": 1.0}),
    SchedulePhase(1.0, {"none": 0.5, "any": 0.5}),
)


def draws(schedule: BudgetSchedule, steps: range, seed: int = 0) -> np.ndarray:
    draw = jax.jit(jax.vmap(schedule.draw, in_axes=(None, 0)))
    return np.asarray(draw(jax.random.key(seed), jnp.arange(steps.start, steps.stop)))


def test_draws_follow_the_weights_of_their_phase():
    schedule = BudgetSchedule(EVERY, PHASES, num_steps=8000)
    full, none = EVERY.index(Budget.all(PLAN)), EVERY.index(Budget.none())
    assert (draws(schedule, range(4000)) == full).all()
    counts = np.bincount(draws(schedule, range(4000, 8000)), minlength=len(EVERY))
    expected = np.full(len(EVERY), 0.5 / len(EVERY))
    expected[none] += 0.5
    # Four standard deviations of a binomial count.
    spread = 4 * np.sqrt(4000 * expected * (1 - expected))
    assert (np.abs(counts - 4000 * expected) < spread).all()


def test_a_step_draws_the_same_whoever_asks_and_whenever():
    schedule = BudgetSchedule(EVERY, PHASES, num_steps=100)
    together = draws(schedule, range(100))
    alone = [int(schedule.draw(jax.random.key(0), jnp.int32(i))) for i in (0, 57, 99)]
    assert alone == [together[i] for i in (0, 57, 99)]
    assert (draws(schedule, range(100), seed=1) != together).any()


def test_gates_of_a_draw_are_those_of_its_budget():
    schedule = BudgetSchedule(EVERY, PHASES, num_steps=10)
    for index, budget in enumerate(EVERY):
        gates = jax.jit(schedule.gates)(jnp.int32(index))
        assert tuple(np.asarray(gates)) == budget.gates(PLAN)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((), "ascending"),
        ((SchedulePhase(0.5, {"all": 1.0}),), "ascending"),
        ((SchedulePhase(1.0, {"all": -1.0}),), "negative"),
        ((SchedulePhase(1.0, {"none": 0.0}),), "positive weight"),
        ((SchedulePhase(1.0, {"sa1:2": 1.0}),), "SELF layers of this model"),
    ],
)
def test_impossible_schedules_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        BudgetSchedule(EVERY, phases, num_steps=10)


def test_a_budget_outside_the_set_is_refused():
    small = BudgetSet.parse(["none"], PLAN)
    with pytest.raises(ValueError, match="not in this set"):
        BudgetSchedule(small, (SchedulePhase(1.0, {"all": 1.0}),), num_steps=10)
