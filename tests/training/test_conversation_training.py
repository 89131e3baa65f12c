"""Training on converted data, end to end: it learns, and a stopped run goes on."""

import itertools
import json

import jax
import ml_collections
import numpy as np
import pytest

from configs import universal
from tests.data import conversation_set
from tests.data.llava_set import write_set
from visor_jax import settings, train
from visor_jax.checkpoints.restore import load_params
from visor_jax.data.conversations.conversion import ConversionSettings, convert
from visor_jax.models import variants
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.tasks.run import Run
from visor_jax.training.interruption import Interruption

STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A converted set of small pictures, and a folder of processor files."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder, 60, broken=False)
    sources = ConversionSettings(
        sources=(str(folder / "train.json"),),
        image_folder=str(folder / "images"),
        rows_per_shard=25,
    )
    convert(sources, folder / "converted")
    conversation_set.save_processor(folder / "processor")
    return folder


class StopsAfter(Interruption):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def config_of(data, **changes) -> ml_collections.ConfigDict:
    config = universal.get_config("llava_ov_0p5b")
    config.model.variant = "tiny_chat"
    config.data.update(
        path=str(data / "converted"),
        processor=str(data / "processor"),
        cache=str(data / "cache"),
        batch_size=4,
        text_lengths=(192,),
        max_images=2,
        max_length=400,
        workers=0,
    )
    config.optimizer.update(learning_rate=3e-3, warmup_steps=4)
    config.loop.update(steps=STEPS, log_every=5, checkpoint_every=10)
    config.mesh = {"data": 1, "fsdp": 1, "tensor": 1}
    config.data.update(changes)
    return config


def run_of(config, workdir, interruption=None) -> Run:
    chosen = settings.read(config)
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    mesh = jax.make_mesh(
        (1, 1, 1), MESH_AXES, devices=jax.devices()[:1], axis_types=auto
    )
    return Run(
        settings=chosen,
        workdir=workdir,
        mesh=mesh,
        interruption=interruption or Interruption(),
    )


@pytest.fixture(autouse=True)
def _tiny_variant(monkeypatch):
    make = lambda: conversation_set.NETWORK  # noqa: E731
    monkeypatch.setitem(variants.VARIANTS, "tiny_chat", make)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            variants.VARIANTS, "tiny_chat", lambda: conversation_set.NETWORK
        )
        _, done, _ = train.train(run_of(config_of(data), workdir))
    assert done == STEPS
    return workdir


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_loss_falls(straight):
    losses = [line["loss"] for line in lines(straight / "metrics.jsonl")]
    assert len(losses) == STEPS // 5
    assert losses[-1] < 0.6 * losses[0]
