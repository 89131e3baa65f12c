"""States that hold scanned layers as one array: the same run, fewer arrays."""

import dataclasses
import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.sharding.mesh_run import mesh_of
from tests.tolerances import GRADIENT, REORDERED
from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import ENTRY
from visor_jax.models.scanned_columns import scanned_columns
from visor_jax.models.vlm import VLM
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules
from visor_jax.token_reduction.trained import as_trained, to_train_with
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    make_universal_step,
)
from visor_jax.training.optimizer import OptimizerSettings, make_optimizer
from visor_jax.training.parameter_groups import ParameterGroup
from visor_jax.training.state import TrainState, state_shardings

# CTS, CTS, CTT and a tail: a TEXT layer in the place of a SELF layer.
CONFIG = tiny.VISOR.replace(
    plan=LayerPlan.build(10, cross=(0, 3, 6), self_=(2, 5)), scan_layers="on"
)
BLOCKS = ("vision_tower/encoder/layers_0", "vision_tower/encoder/layers_1")
PLACES = tuple(
    tuple(f"language_model/layers_{first + i}" for i in (0, 3, 6)) for first in range(3)
)
SETTINGS = OptimizerSettings(
    learning_rate=0.01,
    weight_decay=0.1,
    # Gradients that are nothing but rounding (of key biases) stay nothing.
    eps=1e-3,
    frozen=("vision_tower",),
    groups={
        "adapters": ParameterGroup(pattern="/cross_attention/", learning_rate=0.02),
        "others": ParameterGroup(pattern="^(?!.*/cross_attention/)"),
    },
)
STEPS = 10


def state_of(settings=SETTINGS):
    # To stack a state uses its arrays up.
    return TrainState.create(
        jax.tree.map(jnp.copy, tiny.params_of(CONFIG)["params"]),
        make_optimizer(settings, STEPS),
        settings.frozen,
        seed=0,
        num_budgets=4,
    )


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **GRADIENT), found, expected
    )


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


@functools.cache
def trained(form, sizes=None, parts=1, matrices="adam"):
    """Returns the losses of a few steps, and the last state, layer by layer.

    form: "off", layers written out; "apart", stacked in the step; "stacked", before.
    parts: of a batch, one after another. matrices: see `OptimizerSettings`.
    """
    given = dataclasses.replace(SETTINGS, matrices=matrices)
    config = CONFIG.replace(scan_layers="off" if form == "off" else "on")
    budgets = BudgetSet.parse("every", CONFIG.plan)
    schedule = BudgetSchedule(budgets, (SchedulePhase(1.0, {"any": 1.0}),), STEPS)
    model, optimizer = VLM(config), make_optimizer(given, STEPS)
    step = make_universal_step(
        *(model, optimizer, schedule, ObjectiveSettings(), given.frozen),
        accumulate=parts,
    )
    batch = tiny.random_batch(CONFIG, tiny.SAMPLES[:1] * 8)
    mesh = mesh_of(sizes or (1, 1, 1))
    # Outside the mesh: the tiny parameters are every test's.
    state, stacks = state_of(given), LayerStacks()
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        shardings = state_shardings(state, given.frozen, mesh)
        state = jax.device_put(state, shardings)
        if form == "stacked":
            stacks = LayerStacks.of(model, given, state.params)
        state = stacks.stack(state)
        batch, losses = jax.device_put(batch, batch_sharding(mesh)), []
        run = jax.jit(step, out_shardings=jax.tree.map(lambda x: x.sharding, state))
        for _ in range(STEPS):
            state = run(state, batch)
            losses.append(state.sums.loss.sum())
        return np.asarray(losses), stacks.unstack(state)


def test_columns_are_the_layers_that_are_scanned():
    assert scanned_columns(VLM(CONFIG)) == (BLOCKS, *PLACES)
    assert scanned_columns(VLM(CONFIG.replace(scan_layers="off"))) == ()
    looking = CONFIG.replace(reading_layers=(ENTRY, 2))
    assert scanned_columns(VLM(looking)) == (BLOCKS,)
    one = dataclasses.replace(CONFIG.vision, num_layers=1)
    assert scanned_columns(VLM(CONFIG.replace(vision=one))) == PLACES


def test_a_network_that_drops_tokens_keeps_its_layers_apart():
    model = as_trained(to_train_with(CONFIG, "uniform:keep=0.5"))
    assert scanned_columns(model) == ()


def test_a_stack_has_the_layers_in_their_order_and_nothing_else_changes():
    state = state_of()
    stacks = LayerStacks.of(VLM(CONFIG), SETTINGS, state.params)
    before = {path: np.array(x) for path, x in flat(state.params).items()}
    after = flat(stacks.stack(state).params)
    for column in (BLOCKS, *PLACES):
        first = f"{column[0]}/"
        ends = [p.removeprefix(column[0]) for p in after if p.startswith(first)]
        assert ends
        for end in ends:
            expected = np.stack([before.pop(layer + end) for layer in column])
            np.testing.assert_array_equal(after.pop(column[0] + end), expected)
    assert after.keys() == before.keys()
    assert "language_model/layers_9/mlp/up_proj/kernel" in before
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_moments_are_stacked_with_their_parameters_and_rates_stay():
    state = state_of()
    stacked = LayerStacks.of(VLM(CONFIG), SETTINGS, state.params).stack(state)
    _, adam, _, rates = stacked.opt_state
    shapes = flat(jax.tree.map(jnp.shape, adam.mu))
    assert shapes["language_model/layers_0/mlp/up_proj/kernel"] == (3, 32, 48)
    assert shapes["language_model/layers_9/mlp/up_proj/kernel"] == (32, 48)
    assert not any(path.startswith("vision_tower") for path in shapes)
    assert rates.rates.keys() == SETTINGS.groups.keys()


def test_what_is_taken_apart_is_what_was_stacked():
    _, state = trained("off")
    stacks = LayerStacks.of(VLM(CONFIG), SETTINGS, state.params)
    stacked = stacks.stack(jax.tree.map(jnp.copy, state))
    filed = stacks.for_files(stacked)
    for again in (filed, stacks.unstack(stacked)):
        assert jax.tree.structure(again) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, again, state)


def test_no_array_is_on_a_device_twice():
    state = state_of()
    stacks = LayerStacks.of(VLM(CONFIG), SETTINGS, state.params)
    layers = [flat(state.params)[f"{layer}/mlp/up_proj/kernel"] for layer in PLACES[0]]
    stacked = stacks.stack(state)
    assert all(layer.is_deleted() for layer in layers)
    # What is written meanwhile is not on a device, and training goes on beside it.
    filed = flat(stacks.for_files(stacked).opt_state[1].mu)
    kinds = {path: x.sharding.memory_kind for path, x in filed.items()}
    assert kinds["language_model/layers_3/mlp/up_proj/kernel"] == "pinned_host"
    assert kinds["language_model/layers_9/mlp/up_proj/kernel"] == "device"
    whole = flat(stacked.params)["language_model/layers_0/mlp/up_proj/kernel"]
    assert not whole.is_deleted()
    stacks.unstack(stacked)
    assert whole.is_deleted()


def test_shapes_say_what_arrays_become():
    state = state_of()
    stacks = LayerStacks.of(VLM(CONFIG), SETTINGS, state.params)
    described = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    expected = jax.tree.leaves(stacks.stacked(described))
    actual = jax.tree.leaves(stacks.stack(state))
    assert [(x.shape, x.dtype, x.sharding) for x in actual] == [
        (x.shape, x.dtype, x.sharding) for x in expected
    ]


@pytest.mark.parametrize("other", ["apart", "off"])
def test_a_stacked_run_is_the_run_of_layers_apart(other):
    losses, state = trained("stacked")
    expected_losses, expected = trained(other)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert_close(state, expected)


def test_a_batch_in_parts_trains_a_stacked_state_alike():
    losses, state = trained("stacked", parts=2)
    expected_losses, expected = trained("stacked")
    np.testing.assert_allclose(losses, expected_losses, **REORDERED)
    assert_close(state.params, expected.params)


@pytest.mark.parametrize(("form", "sizes"), [("stacked", None), ("off", (2, 2, 2))])
def test_muon_moves_stacks_and_split_matrices_as_whole_ones(form, sizes):
    losses, state = trained(form, sizes, matrices="muon")
    expected_losses, expected = trained("off", matrices="muon")
    np.testing.assert_allclose(losses, expected_losses, **REORDERED)
    assert_close(state.params, expected.params)
    assert not np.allclose(losses, trained("off")[0], **REORDERED)


@pytest.mark.parametrize("sizes", [(1, 4, 1), (2, 2, 2)])
def test_over_devices_each_layer_of_a_stack_lies_as_it_would_alone(sizes):
    losses, state = trained("stacked", sizes)
    expected_losses, expected = trained("stacked")
    np.testing.assert_allclose(losses, expected_losses, **REORDERED)
    assert_close(state.params, expected.params)
    shardings = state_shardings(state_of(), SETTINGS.frozen, mesh_of(sizes))
    jax.tree.map(
        lambda x, split: (
            x.sharding.is_equivalent_to(split, x.ndim)
            or pytest.fail(f"{x.sharding} {split}")
        ),
        state,
        shardings,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen": ("vision_tower", "language_model/layers_3/.*/q_proj/")},
        {
            "groups": {
                "first": ParameterGroup(pattern="layers_[0-3]/"),
                "others": ParameterGroup(pattern="^(?!.*layers_[0-3]/)"),
            }
        },
    ],
)
def test_layers_that_a_pattern_tells_apart_stay_apart(changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    params = tiny.params_of(CONFIG)["params"]
    found = LayerStacks.of(VLM(CONFIG), settings, params).columns
    # Layer 3 differs from 0 and 6; of the groups, each place has layers of both.
    assert found == ((BLOCKS, *PLACES[1:]) if "frozen" in changes else (BLOCKS,))
