"""Training on converted data, end to end: it learns, and a stopped run goes on."""

import json

import jax
import ml_collections
import numpy as np
import pytest

from configs import universal
from tests.checkpoints.saved import load_checkpoint
from tests.data.conversations import conversation_set
from visor_jax import train
from visor_jax.models import variants
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.user_error import UserError
from visor_jax.settings.read import read_settings
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.tasks.run import Run

STEPS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A converted set of small pictures, and a folder of processor files."""
    folder = tmp_path_factory.mktemp("data")
    # One tile each: two shapes of batches, with a picture and without.
    conversation_set.draw(folder, 60, sizes=((20, 24), (24, 20)))
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
    chosen = read_settings(config)
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


@pytest.fixture(scope="module", autouse=True)
def tiny_variant():
    """`tiny_chat` is a variant like those of the package."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_chat = {"tiny_chat": lambda: conversation_set.NETWORK}
        patch.setattr(variants, "VARIANTS", variants.VARIANTS | tiny_chat)
        yield


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    """The runs here share their programs, made quickly: they run for milliseconds."""
    name, made = "jax_disable_most_optimizations", []
    before, make = jax.config.values[name], train.step_programs

    def first_made(*arguments):
        made.append(made[0] if made else make(*arguments))
        return made[-1]

    jax.config.update(name, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "step_programs", first_made)
        yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("straight")
    _, done, _ = train.train(run_of(config_of(data), workdir))
    assert done == STEPS
    return workdir


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_log_has_the_rate_of_every_group(straight):
    names = ("vision_tower", "projector", "language_model", "adapters")
    for line in lines(straight / "metrics.jsonl"):
        rates = {name for name in line if name.startswith("learning_rate")}
        assert rates == {f"learning_rate/{name}" for name in names}


def test_the_loss_falls(straight):
    losses = [line["loss"] for line in lines(straight / "metrics.jsonl")]
    assert len(losses) == STEPS // 5
    assert losses[-1] < 0.7 * losses[0]


def test_every_shape_is_compiled_for_once_and_its_time_is_kept(straight):
    timing = lines(straight / "timing.jsonl")
    assert sum("compile_s" in line for line in timing) == 2
    assert all("data_wait_s" in line for line in timing if "compile_s" not in line)


def test_the_run_says_what_it_read_and_what_it_left_out(straight, data):
    record = json.loads((straight / "data.json").read_text())
    assert [each["samples"] for each in record["sets"]] == [60]
    assert sum(each["batches"] for each in record["batches"]) == STEPS
    assert record["dropped"] == {}


def test_a_stopped_run_goes_on_bit_identical(straight, data, tmp_path):
    config = config_of(data)
    # The loop looks once a step.
    _, done, _ = train.train(run_of(config, tmp_path, StopsAfter(20)))
    assert 10 < done < STEPS
    # Another number of readers reads the same.
    again = config_of(data, threads=1)
    _, done, _ = train.train(run_of(again, tmp_path))
    assert done == STEPS
    expected, got = load_checkpoint(straight).params, load_checkpoint(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    metrics = [(d / "metrics.jsonl").read_bytes() for d in (straight, tmp_path)]
    assert metrics[0] == metrics[1]


def test_a_run_does_not_go_on_with_other_data(straight, data):
    with pytest.raises(UserError, match="saved in the middle of other data"):
        train.train(run_of(config_of(data, supervision="assistant"), straight))
