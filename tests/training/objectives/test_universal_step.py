"""The training step: which budget it trains, what it skips, what it leaves alone."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import stage_a
from tests import tiny
from tests.tolerances import GRADIENT
from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import ENTRY
from visor_jax.models.vlm import VLM
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.losses import cross_entropy
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    make_universal_step,
    summary,
)
from visor_jax.training.optimizer import merge, split_frozen
from visor_jax.training.state import TrainState

CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    plan=LayerPlan.build(4, cross=(1, 3), self_=(0, 2)),
)
FROZEN = ("vision_tower",)
BATCH = jax.tree.map(jnp.asarray, tiny.random_batch(CONFIG))
# A tenth of the run for each: one program serves them all, the step says which it is.
PHASES = ({"none": 1}, {"sa1:2": 1}, {"all": 1}, {"none": 0.5, "all": 0.5})
# The first step of descent with momentum is plain descent, and it has a state.
DESCENT = optax.sgd(0.1, momentum=0.9)

assert_close = functools.partial(np.testing.assert_allclose, **GRADIENT)


def build(
    config=CONFIG, *, accumulate=1, optimizer=DESCENT, frozen=FROZEN, **objective
):
    """Returns (step, state) of a run of 100 steps in the phases above."""
    budgets = tiny.every_budget(config)
    phases = [
        SchedulePhase((i + 1) / 10, weights) for i, weights in enumerate(PHASES[:-1])
    ]
    schedule = BudgetSchedule(budgets, (*phases, SchedulePhase(1.0, PHASES[-1])), 100)
    step = make_universal_step(
        VLM(config),
        optimizer,
        schedule,
        ObjectiveSettings(**objective),
        frozen,
        accumulate,
    )
    state = TrainState.create(
        tiny.params_of(config)["params"],
        optimizer,
        frozen,
        seed=0,
        num_budgets=len(budgets),
    )
    return jax.jit(step), state


def at(state, phase):
    """Returns the state at the first step of a phase."""
    return state.replace(step=jnp.asarray(10 * phase, jnp.int32))


@pytest.fixture(scope="module")
def plain():
    """Returns (compiled step, state) without anything optional."""
    step, state = build()
    return step.lower(state, BATCH).compile(), state


@jax.jit
def descended(params, gates):
    """Returns the parameters after one step of plain gradient descent."""
    trainable, frozen = split_frozen(params, FROZEN)

    def loss(trainable):
        merged = {"params": merge(trainable, frozen)}
        logits = VLM(CONFIG).apply(merged, BATCH, gates).logits
        return cross_entropy(logits, BATCH.targets, BATCH.loss_mask).mean

    grads = jax.grad(loss)(trainable)
    return merge(jax.tree.map(lambda p, g: p - 0.1 * g, trainable, grads), frozen)


@pytest.mark.parametrize(
    ("phase", "gates"), [(0, (False, False)), (1, (False, True)), (2, (True, True))]
)
def test_a_step_is_gradient_descent_at_the_drawn_budget(plain, phase, gates):
    step, state = plain
    after = step(at(state, phase), BATCH)
    expected = descended(state.params, jnp.asarray(gates))
    jax.tree.map(assert_close, after.params, expected)
    assert after.step == 10 * phase + 1


def test_a_step_trains_a_budget_that_reads():
    plan = CONFIG.plan
    budgets = BudgetSet.parse("none,sa1:0+rd1:2,all", plan)
    phases = (SchedulePhase(1.0, {"sa1:0+rd1:2": 1.0}),)
    schedule = BudgetSchedule(budgets, phases, 100)
    objective = ObjectiveSettings()
    step = make_universal_step(VLM(CONFIG), DESCENT, schedule, objective, FROZEN)
    state = TrainState.create(
        tiny.params_of(CONFIG)["params"], DESCENT, FROZEN, seed=0, num_budgets=3
    )
    after = jax.jit(step)(state, BATCH)
    expected = descended(state.params, jnp.asarray([2, 1]))
    jax.tree.map(assert_close, after.params, expected)
    assert after.sums.steps.tolist() == [0, 1, 0]


def test_a_batch_in_parts_is_the_whole_batch(plain):
    step, state = plain
    batch = BATCH.replace(loss_mask=BATCH.loss_mask.at[0, 3:].set(False))
    whole = step(at(state, 1), batch)
    in_parts, state = build(accumulate=2)
    parts = in_parts(at(state, 1), batch)
    jax.tree.map(assert_close, parts.params, whole.params)
    jax.tree.map(assert_close, parts.sums, whole.sums)


def test_frozen_parameters_stay_bit_identical_and_have_no_optimiser_state(plain):
    step, state = plain
    after = step(at(state, 2), BATCH)
    jax.tree.map(
        np.testing.assert_array_equal,
        after.params["vision_tower"],
        state.params["vision_tower"],
    )
    paths = [
        jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state.opt_state)
    ]
    assert paths
    assert not any("vision_tower" in p for p in paths)


def test_stage_a_trains_the_adapters_alone():
    step, state = build(frozen=tuple(stage_a.get_config().optimizer.frozen))
    after = step(at(state, 2), BATCH)
    before = flax.traverse_util.flatten_dict(state.params, sep="/")
    moved = {
        path
        for path, x in flax.traverse_util.flatten_dict(after.params, sep="/").items()
        if np.any(x != before[path])
    }
    assert moved
    assert moved == {path for path in before if "/cross_attention/" in path}


def test_the_compiled_step_holds_a_conditional_for_every_self_layer(plain):
    # Forward and backward of each gated layer.
    count = plain[0].as_text().count(" conditional(")
    assert count >= 2 * len(CONFIG.plan.self_layers)


def test_sums_say_which_budgets_were_trained(plain):
    step, state = plain
    state = at(state, 3)
    for _ in range(6):
        state = step(state, BATCH)
    budgets = tiny.every_budget(CONFIG)
    values = summary(state.sums, budgets.names)
    assert state.sums.steps.sum() == 6
    assert set(values) >= {"loss", "loss/sa0", "loss/sa2:0,2"}
    assert "loss/sa1:0" not in values
    trained = [float(n) for n in state.sums.steps]
    weighted = sum(
        n * values[f"loss/{name}"]
        for n, name in zip(trained, budgets.names, strict=True)
        if n
    )
    assert_close(values["loss"], weighted / 6)


def test_sandwich_trains_the_mean_of_largest_smallest_and_drawn(plain):
    step, state = build(sandwich=True)
    after = step(at(state, 1), BATCH)
    single = [plain[0](at(plain[1], phase), BATCH).params for phase in range(3)]
    mean = jax.tree.map(lambda *x: sum(x) / 3, *single)
    jax.tree.map(assert_close, after.params, mean)


def test_distillation_pulls_the_drawn_budget_towards_the_largest():
    @jax.jit
    def gap(params):
        none, full = (
            VLM(CONFIG).apply({"params": params}, BATCH, gates).logits
            for gates in ((False, False), (True, True))
        )
        return jnp.abs(jax.nn.softmax(none) - jax.nn.softmax(full)).mean()

    step, state = build(distill_weight=100.0, optimizer=optax.adam(1e-3))
    before = gap(state.params)
    for _ in range(10):
        state = step(state, BATCH)
    assert gap(state.params) < 0.9 * before


def test_reading_loss_reaches_the_network_only_where_its_layer_is_on():
    config = CONFIG.replace(
        image_newline=False, grid_embedding=True, reading_layers=(ENTRY, 0, 2)
    )
    labels = np.random.default_rng(0).integers(-1, 10, BATCH.image_mask.shape)
    batch = BATCH.replace(
        image_labels=jnp.asarray(labels, jnp.int32),
        image_token_index=BATCH.image_token_index % config.vision.num_patches,
    )
    step, state = build(config, reading_weight=1.0)

    def moved(phase):
        after = step(at(state, phase), batch)
        heads = (f"reading_heads_{name}" for name in ("0", "2", "entry"))
        return [
            bool(np.any(after.params[h]["kernel"] != state.params[h]["kernel"]))
            for h in heads
        ]

    assert moved(0) == [False, False, True]
    assert moved(1) == [False, True, False]
    assert moved(2) == [True, True, False]


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="reading_weight"):
        ObjectiveSettings(reading_weight=-1.0)
