"""Meshes, rules, and the promise that a split run computes what one device computes."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from tests import tiny
from tests.tolerances import GRADIENT
from visor_jax import axes
from visor_jax.budget import BudgetSet
from visor_jax.models import variants
from visor_jax.models.vlm import VLM
from visor_jax.sharding.axis_rules import (
    RULES,
    batch_sharding,
    logical_rules,
    samples_split,
    spec,
)
from visor_jax.sharding.mesh import MESH_AXES, MeshSettings, describe_mesh, make_mesh
from visor_jax.sharding.param_rules import param_shardings
from visor_jax.training.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.state import TrainState, state_shardings
from visor_jax.training.universal_step import ObjectiveSettings, make_universal_step


def test_mesh_fills_what_is_left():
    mesh = make_mesh(MeshSettings(data=-1, fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert samples_split(mesh) == 4
    assert describe_mesh(mesh) == "mesh data 2 x fsdp 2 x tensor 2, 8 cpu devices"


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": -1, "fsdp": 3}])
def test_a_mesh_that_does_not_fit_names_the_devices(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_mesh(MeshSettings(**sizes))


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -1, "fsdp": -1}])
def test_impossible_mesh_settings(sizes):
    with pytest.raises(ValueError, match="-1"):
        MeshSettings(**sizes)


def test_every_logical_axis_has_a_rule():
    assert set(RULES) == set(axes.LOGICAL_AXES)


def test_one_mesh_axis_cannot_split_two_dimensions():
    with pytest.raises(ValueError, match="twice"):
        spec((axes.HEADS, axes.MLP))
    with pytest.raises(ValueError, match="Unknown logical axes"):
        spec(("width",))


@pytest.mark.parametrize("variant", ["mini", "llava_ov_0p5b", "llava_ov_7b"])
def test_every_large_parameter_of_every_variant_is_split(variant):
    config = variants.variant(variant)
    mesh = make_mesh(MeshSettings(data=2, fsdp=4, tensor=1))
    abstract = tiny_shapes(config)
    shardings = param_shardings(abstract, mesh)
    for path, leaf in jax.tree.leaves_with_path(abstract):
        sharding = functools.reduce(lambda tree, key: tree[key.key], path, shardings)
        if leaf.ndim >= 2 and leaf.size > 2**16:
            assert any(sharding.spec), jax.tree_util.keystr(path)


def tiny_shapes(config):
    batch = tiny.random_batch(config, [tiny.Sample(image=4, questions=(3,))], crops=1)
    init = functools.partial(VLM(config).init, reading=True)
    gates = (True,) * len(config.plan.self_layers)
    key = jax.random.key(0)
    return jax.eval_shape(lambda k, b: init(k, b, gates), key, batch)["params"]


def test_unknown_and_indivisible_parameters_are_all_listed():
    mesh = make_mesh(MeshSettings(data=1, fsdp=8, tensor=1))
    shape = jax.ShapeDtypeStruct((12, 12), np.float32)
    params = {
        "surprise": {"kernel": shape},
        "language_model": {"embed_tokens": {"embedding": shape}},
    }
    with pytest.raises(ValueError, match="surprise/kernel") as error:
        param_shardings(params, mesh)
    assert "12 does not split into 8" in str(error.value)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_split_step_equals_the_step_of_one_device(sizes):
    config = tiny.NETWORKS["grouped"]
    budgets = BudgetSet.parse(["every"], config.plan)
    schedule = BudgetSchedule(budgets, (SchedulePhase(1.0, {"any": 1.0}),), 10)
    optimizer, frozen = optax.sgd(0.1), ("vision_tower",)
    step = make_universal_step(
        VLM(config), optimizer, schedule, ObjectiveSettings(), frozen
    )
    state = TrainState.create(
        tiny.params_of(config)["params"],
        optimizer,
        frozen,
        seed=0,
        num_budgets=len(budgets),
    )
    batch = tiny.random_batch(config, tiny.SAMPLES * 2)
    expected = jax.jit(step)(jax.jit(step)(state, batch), batch)
    mesh = make_mesh(MeshSettings(**dict(zip(MESH_AXES, sizes, strict=True))))
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        shardings = state_shardings(state, optimizer, frozen, mesh)
        placed = jax.device_put(state, shardings)
        split_batch = jax.device_put(batch, batch_sharding(mesh))
        split = jax.jit(step, out_shardings=shardings)
        got = split(split(placed, split_batch), split_batch)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **GRADIENT),
        got.params,
        expected.params,
    )
