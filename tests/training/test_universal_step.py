"""The training step: which budget it trains, what it skips, what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.tolerances import GRADIENT
from visor_jax.budget import BudgetSet
from visor_jax.models.vlm import VLM
from visor_jax.training.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.losses import cross_entropy
from visor_jax.training.optimizer import merge, split_frozen
from visor_jax.training.state import TrainState
from visor_jax.training.universal_step import (
    ObjectiveSettings,
    make_universal_step,
    summary,
)

CONFIG = tiny.VISOR
BUDGETS = BudgetSet.parse(["every"], CONFIG.plan)
FROZEN = ("vision_tower",)
BATCH = jax.tree.map(jnp.asarray, tiny.random_batch(CONFIG))


def build(weights, *, optimizer=None, config=CONFIG, **objective):
    """Returns (step, state) of a run that draws budgets with these weights."""
    optimizer = optimizer or optax.sgd(0.1)
    schedule = BudgetSchedule(BUDGETS, (SchedulePhase(1.0, weights),), num_steps=100)
    step = make_universal_step(
        VLM(config), optimizer, schedule, ObjectiveSettings(**objective), FROZEN
    )
    state = TrainState.create(
        tiny.params_of(config)["params"],
        optimizer,
        FROZEN,
        seed=0,
        num_budgets=len(BUDGETS),
    )
    return jax.jit(step), state


def expected_params(params, gates):
    """Returns the parameters after one step of plain gradient descent, static gates."""
    trainable, frozen = split_frozen(params, FROZEN)

    def loss(trainable):
        merged = {"params": merge(trainable, frozen)}
        logits = VLM(CONFIG).apply(merged, BATCH, gates).logits
        return cross_entropy(logits, BATCH.targets, BATCH.loss_mask).mean

    grads = jax.jit(jax.grad(loss))(trainable)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, trainable, grads)
    return merge(stepped, frozen)


@pytest.mark.parametrize("name", ["none", "sa1:3", "all"])
def test_a_step_is_gradient_descent_at_the_drawn_budget(name):
    step, state = build({name: 1.0})
    after = step(state, BATCH)
    gates = BudgetSet.parse([name], CONFIG.plan).budgets[0].gates(CONFIG.plan)
    expected = expected_params(state.params, gates)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **GRADIENT),
        after.params,
        expected,
    )
    assert after.step == 1


def test_frozen_parameters_stay_bit_identical_and_have_no_optimiser_state():
    step, state = build({"all": 1.0}, optimizer=optax.adam(0.1))
    after = step(state, BATCH)
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


def test_the_compiled_step_holds_a_conditional_for_every_self_layer():
    step, state = build({"any": 1.0})
    text = step.lower(state, BATCH).compile().as_text()
    # Forward and backward of each gated layer.
    assert text.count(" conditional(") >= 2 * len(CONFIG.plan.self_layers)


def test_sums_say_which_budgets_were_trained():
    step, state = build({"none": 0.5, "all": 0.5})
    for _ in range(6):
        state = step(state, BATCH)
    values = summary(state.sums, BUDGETS.names)
    assert state.sums.steps.sum() == 6
    assert set(values) >= {"loss", "loss/sa0", "loss/sa2:1,3"}
    assert "loss/sa1:1" not in values
    trained = [float(n) for n in state.sums.steps]
    weighted = sum(
        n * values[f"loss/{name}"]
        for n, name in zip(trained, BUDGETS.names, strict=True)
        if n
    )
    np.testing.assert_allclose(values["loss"], weighted / 6, **GRADIENT)


def test_sandwich_trains_the_mean_of_largest_smallest_and_drawn():
    step, state = build({"sa1:1": 1.0}, sandwich=True)
    after = step(state, BATCH)
    single = [
        build({name: 1.0})[0](state, BATCH).params for name in ("sa1:1", "all", "none")
    ]
    mean = jax.tree.map(lambda *x: sum(x) / 3, *single)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **GRADIENT), after.params, mean
    )


def test_distillation_pulls_the_drawn_budget_towards_the_largest():
    def gap(params):
        model, gates = VLM(CONFIG), BudgetSet.parse(["none", "all"], CONFIG.plan)
        none, full = (
            model.apply({"params": params}, BATCH, b.gates(CONFIG.plan)).logits
            for b in gates
        )
        return jnp.abs(jax.nn.softmax(none) - jax.nn.softmax(full)).mean()

    step, state = build({"none": 1.0}, distill_weight=100.0, optimizer=optax.adam(1e-3))
    before = gap(state.params)
    for _ in range(10):
        state = step(state, BATCH)
    assert gap(state.params) < 0.9 * before


def test_reading_loss_reaches_the_network_only_where_its_layer_is_on():
    config = tiny.NETWORKS["reading"]
    labels = np.random.default_rng(0).integers(-1, 10, BATCH.image_mask.shape)
    batch = BATCH.replace(image_labels=jnp.asarray(labels, jnp.int32))
    batch = batch.replace(image_token_index=batch.image_token_index % 9)
    budgets = BudgetSet.parse(["none", "sa1:0", "all"], config.plan)
    moved = {}
    for name in budgets.names:
        schedule = BudgetSchedule(budgets, (SchedulePhase(1.0, {name: 1.0}),), 10)
        step = make_universal_step(
            VLM(config),
            optax.sgd(0.1),
            schedule,
            ObjectiveSettings(reading_weight=1.0),
            FROZEN,
        )
        state = TrainState.create(
            tiny.params_of(config)["params"],
            optax.sgd(0.1),
            FROZEN,
            seed=0,
            num_budgets=len(budgets),
        )
        after = jax.jit(step)(state, batch)
        moved[name] = {
            key: bool(
                np.any(after.params[key]["kernel"] != state.params[key]["kernel"])
            )
            for key in state.params
            if key.startswith("reading_heads")
        }
    heads = [f"reading_heads_{name}" for name in ("0", "2", "entry")]
    assert [moved["sa0"][h] for h in heads] == [False, False, True]
    assert [moved["sa1:0"][h] for h in heads] == [True, False, False]
    assert [moved["sa2:0,2"][h] for h in heads] == [True, True, False]


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="reading_weight"):
        ObjectiveSettings(reading_weight=-1.0)
