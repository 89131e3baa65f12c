"""A run that was stopped goes on over other devices, in other parts: the same run."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.checkpoints.saved import load_checkpoint
from tests.data.conversations import conversation_set
from tests.tasks.test_conversation_training import (
    StopsAfter,
    config_of,
    lines,
)
from tests.tolerances import GRADIENT
from visor_jax import train
from visor_jax.layer_plan import LayerPlan
from visor_jax.models import variants
from visor_jax.models.scanned_columns import scanned_columns
from visor_jax.models.vlm import VLM
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings.read import read_settings
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.tasks.run import Run

STEPS = 12


# A tower of two blocks, and (C S) twice over: something to scan.
NETWORK = conversation_set.NETWORK.replace(
    vision=dataclasses.replace(conversation_set.NETWORK.vision, num_layers=2),
    plan=LayerPlan.build(5, cross=(0, 2, 4), self_=(1, 3)),
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    tiny_chat = {"tiny_chat": lambda: NETWORK}
    monkeypatch.setattr(variants, "VARIANTS", variants.VARIANTS | tiny_chat)
    conversation_set.draw(tmp_path, 40, sizes=((20, 24), (24, 20)))
    conversation_set.save_processor(tmp_path / "processor")
    return tmp_path


def trained(data, workdir, devices, *, stop_after=None, **changes):
    config = config_of(data)
    config.loop.update(steps=STEPS, log_every=4, checkpoint_every=3)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    mesh = jax.make_mesh(
        devices,
        MESH_AXES,
        devices=jax.devices()[: np.prod(devices)],
        axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES),
    )
    workdir.mkdir(exist_ok=True)
    interruption = StopsAfter(stop_after) if stop_after else Interruption()
    run = Run(
        settings=read_settings(config),
        workdir=workdir,
        mesh=mesh,
        interruption=interruption,
    )
    return train.train(run)[1]


def test_other_devices_and_parts_are_the_same_run(data, tmp_path):
    assert trained(data, tmp_path / "straight", (1, 1, 1)) == STEPS
    stopped = trained(data, tmp_path / "run", (1, 1, 1), stop_after=6)
    assert 0 < stopped < STEPS
    other = {"optimizer.accumulate": 2, "model.remat": "none", "loop.log_every": 2}
    other["model.scan_layers"] = "on"
    assert len(scanned_columns(VLM(NETWORK.replace(scan_layers="on")))) == 3
    assert trained(data, tmp_path / "run", (1, 2, 1), **other) == STEPS
    expected, got = (load_checkpoint(tmp_path / n) for n in ("straight", "run"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **GRADIENT),
        got.params,
        expected.params,
    )
    # And back again, at the end: a checkpoint says nothing of how it was trained.
    (tmp_path / "run/checkpoints" / str(STEPS)).rename(tmp_path / "last")
    back = {"model.scan_layers": "off", "loop.log_every": 4}
    assert trained(data, tmp_path / "run", (1, 1, 1), **back) == STEPS
    again = load_checkpoint(tmp_path / "run")
    assert jax.tree.structure(again.params) == jax.tree.structure(expected.params)
    assert lines(tmp_path / "run/metrics.jsonl")[-1]["step"] == STEPS
