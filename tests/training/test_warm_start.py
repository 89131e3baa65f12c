"""Runs that begin with a checkpoint: what it may have more or less of."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.models.parameters import parameter_shapes
from visor_jax.token_reduction.trained import to_train_with
from visor_jax.training.warm_start import warm_start

READING = tiny.NETWORKS["reading"]


def saved(workdir, config, **more):
    params = {**tiny.params_of(config)["params"], **more}
    metadata = {"model": config.to_dict(), "budgets": ["all"], "task": "universal"}
    with CheckpointManager(workdir, save_every=1) as manager:
        manager.save(
            3,
            params=params,
            optimizer={"step": jnp.int32(3)},
            data_iterator=None,
            metadata={**metadata, "metrics_offset": 0},
        )
    return str(workdir), flax.traverse_util.flatten_dict(params, sep="/")


def started(path, config):
    found = warm_start(path, config, parameter_shapes(config))
    return flax.traverse_util.flatten_dict(found, sep="/")


def test_reading_heads_are_left_where_no_loss_reads(tmp_path):
    path, stored = saved(tmp_path, READING)
    # As configs/token_reduction begin: their tokens have no labels.
    plain = to_train_with(READING.replace(reading_layers=()), "m3:scales=3+1")
    found = started(path, plain)
    assert {p for p in stored if p not in found} == {
        f"reading_heads_{layer}/{name}"
        for layer in ("entry", 0, 2)
        for name in ("bias", "kernel")
    }
    jax.tree.map(np.testing.assert_array_equal, found, {p: stored[p] for p in found})


def test_whatever_else_a_network_has_no_place_for_is_told(tmp_path):
    path, _ = saved(tmp_path, READING, adapter={"kernel": jnp.ones((2, 3))})
    with pytest.raises(
        ValueError, match=r"another model[\s\S]*adapter/kernel \(2, 3\)"
    ):
        started(path, READING)


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path):
    path, _ = saved(tmp_path, READING)
    deeper = dataclasses.replace(READING.vision, num_layers=3)
    with pytest.raises(ValueError, match=r"vision\.num_layers: 2 there, 3 here"):
        started(path, READING.replace(vision=deeper))
