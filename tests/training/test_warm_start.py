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
from visor_jax.models.vision.projector import Projector
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


def flat_shapes(config):
    return flax.traverse_util.flatten_dict(parameter_shapes(config), sep="/")


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


def test_a_projector_gets_its_convolution_later(tmp_path, caplog):
    plain = READING.replace(reading_layers=())
    path, stored = saved(tmp_path / "without", plain)
    wider = plain.replace(projector_convolution=3)
    with caplog.at_level("INFO"):
        found = started(path, wider)
    assert "no convolution behind its projector: new ones begin" in caplog.text
    assert "projector_convolution=0 does without" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, found, stored)
    new = "multi_modal_projector/convolution_kernel"
    assert set(flat_shapes(wider)) - set(found) == {new}
    path, stored = saved(tmp_path / "with", wider)
    assert new in started(path, wider)
    remedy = r"3 there, {} here \(train with --config\.model\.projector_convolution=3\)"
    with pytest.raises(ValueError, match=remedy.format(None)):
        started(path, plain)
    with pytest.raises(ValueError, match=remedy.format(5)):
        started(path, plain.replace(projector_convolution=5))


def test_it_begins_as_if_it_were_not_there():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 9, 16)))
    new, plain = (
        Projector(8, jnp.float32, 0.1, grid=3, convolution=side) for side in (3, None)
    )
    params = new.init(jax.random.key(0), jnp.float32(features))["params"]
    kernel = params.pop("convolution_kernel")
    assert kernel.shape == (3, 3, 8, 8)
    expected = plain.apply({"params": params}, jnp.float32(features))

    def convolved(kernel):
        whole = {**params, "convolution_kernel": kernel}
        return new.apply({"params": whole}, jnp.float32(features))

    np.testing.assert_array_equal(convolved(kernel), expected)
    # And it learns from its first step on.
    gradient = jax.grad(lambda kernel: (convolved(kernel) ** 2).sum())(kernel)
    assert (np.abs(gradient).max(axis=(2, 3)) > 0).all()


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
