"""Checkpoints in a bucket: what counts, and what is done about a damaged one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fake_storage import fake_storage
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.manager import CheckpointManager

PLACE = "gs://bucket/run"
METADATA = {"model": {}, "budgets": [], "task": "t", "metrics_offset": 0}
SHAPES = (
    {"w": jax.ShapeDtypeStruct((4,), jnp.float32)},
    {"o": jax.ShapeDtypeStruct((2,), jnp.float32)},
)


@pytest.fixture
def storage():
    with fake_storage("bucket") as storage:
        yield storage


def save(manager, step):
    manager.save(
        step,
        params={"w": step * jnp.arange(4.0)},
        optimizer={"o": jnp.ones(2)},
        data_iterator=None,
        metadata=METADATA,
    )
    manager.wait()


def test_a_damaged_step_is_put_aside_for_the_one_before(storage, caplog):
    with CheckpointManager(PLACE, save_every=1, keep=2) as manager:
        for step in (1, 2, 3):
            save(manager, step)
    objects = storage.buckets["bucket"]
    assert not [name for name in objects if name.startswith("run/checkpoints/1/")]
    for name in list(objects):
        if name.startswith("run/checkpoints/3/params/") and "/d/" in name:
            del objects[name]
    with CheckpointManager(PLACE, save_every=1, keep=2) as manager:
        params, _, metadata = manager.restore_training(*SHAPES, None)
        assert metadata["step"] == manager.latest_step() == 2
        np.testing.assert_array_equal(params["w"], 2 * np.arange(4.0))
        assert "It is kept as 3.damaged; going on from step 2" in caplog.text
        save(manager, 3)
    assert [step.name for step in layout.find_steps(PLACE)] == ["3", "2"]
    folders = {name.split("/")[2] for name in storage.names("bucket")}
    assert folders == {"2", "3", "3.damaged"}


def test_a_run_may_be_called_by_a_number(storage):
    with CheckpointManager("gs://bucket/7", save_every=1) as manager:
        save(manager, 5)
    (step,) = layout.find_steps("gs://bucket/7")
    assert layout.find_steps(step) == [step]
    # What a killed writer left does not count.
    storage.write("bucket", "7/checkpoints/6/params/_METADATA", b"{}")
    assert layout.find_steps("gs://bucket/7") == [step]
    with pytest.raises(ValueError, match="checkpoints/6 is half written"):
        layout.find_steps("gs://bucket/7/checkpoints/6")
