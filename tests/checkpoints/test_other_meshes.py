"""A checkpoint opens on any number of devices, whatever number saved it."""

import dataclasses
import functools

import flax.traverse_util
import jax
import numpy as np
import optax
import pytest

from tests import tiny
from tests.checkpoints.saved import load_checkpoint
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.checkpoints.placement import placed
from visor_jax.layer_plan import LayerPlan
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.training.state import TrainState, state_shardings

CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    plan=LayerPlan.build(2, cross=(0,), self_=(1,)),
)
OPTIMIZER, FROZEN = optax.adamw(1e-3), ("post_layernorm",)
METADATA = {"model": {}, "budgets": [], "task": "t", "metrics_offset": 0}
EIGHT = (2, 2, 2)
FEWER = ((1, 1, 1), (1, 2, 1), (1, 2, 2))


def mesh_of(sizes):
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, MESH_AXES, axis_types=auto, devices=devices)


def state_on(mesh):
    """Returns a state in which no array is trivial, split over the mesh."""
    rng = np.random.default_rng(0)
    state = TrainState.create(
        tiny.params_of(CONFIG)["params"], OPTIMIZER, FROZEN, seed=3, num_budgets=2
    )
    noisy = jax.tree.map(lambda x: np.asarray(10 * rng.random(x.shape), x.dtype), state)
    return jax.device_put(noisy, state_shardings(state, FROZEN, mesh))


@functools.cache
def abstract_on(sizes):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        state_on(mesh_of(sizes)),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves one run per mesh; gives {sizes: (workdir, state)}."""
    runs = {}
    for sizes in (EIGHT, *FEWER):
        workdir, state = tmp_path_factory.mktemp("run"), state_on(mesh_of(sizes))
        with CheckpointManager(workdir, save_every=1) as manager:
            manager.save(
                5,
                params=state.params,
                optimizer=state.all_but_params(),
                data_iterator=None,
                metadata=METADATA,
            )
        runs[sizes] = workdir, state
    return runs


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [pair for few in FEWER for pair in ((EIGHT, few), (few, EIGHT))],
)
def test_training_goes_on_on_another_mesh(saved, before, after):
    workdir, state = saved[before]
    abstract = abstract_on(after)
    with CheckpointManager(workdir, save_every=1) as manager:
        params, rest, metadata = manager.restore_training(
            abstract.params, abstract.all_but_params(), None
        )
    found = TrainState(params=params, **rest)
    assert metadata["step"] == 5
    assert_same(found, state)
    for x, wanted in zip(*map(jax.tree.leaves, (found, abstract)), strict=True):
        assert x.sharding == wanted.sharding


@pytest.mark.parametrize("before", [EIGHT, *FEWER])
def test_a_path_alone_opens_what_any_mesh_saved(saved, before):
    workdir, state = saved[before]
    found = load_checkpoint(workdir).params
    assert_same(found, state.params)
    assert {d for x in jax.tree.leaves(found) for d in x.devices()} == {
        jax.devices()[0]
    }


@pytest.mark.parametrize("after", [EIGHT, *FEWER])
def test_parameters_are_read_straight_onto_a_mesh(saved, after):
    workdir, state = saved[EIGHT]
    aim = placed(state.params, mesh=mesh_of(after))
    found = load_checkpoint(workdir, aim).params
    assert_same(found, state.params)
    kernel = flax.traverse_util.flatten_dict(found, sep="/")[
        "language_model/layers_0/mlp/up_proj/kernel"
    ]
    _, fsdp, tensor = after
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (kernel.shape[0] // fsdp, kernel.shape[1] // tensor)
