"""A run on conversations whose tower is taught their answers before."""

import flax.serialization
import jax
import numpy as np
import pytest

from tests.checkpoints.saved import load_checkpoint
from tests.data.conversations import conversation_set
from tests.tasks.test_conversation_training import (  # noqa: F401
    config_of,
    run_of,
    tiny_variant,
)
from visor_jax import train
from visor_jax.runtime.user_error import UserError


def tower_run(folder, count):
    """Returns the configuration of a run on so many samples, its tower taught before.

    The fourth sample is the first with two pictures.
    """
    conversation_set.draw(folder, count, sizes=((20, 24),))
    conversation_set.save_processor(folder / "processor")
    config = config_of(folder, max_images=1, supervision="assistant")
    config.tower = {"steps": 3, "batch_size": 2, "learning_rate": 1e-3}
    # Nothing of the tower changes any more.
    config.optimizer.frozen = ("^vision_tower/",)
    config.optimizer.groups = {}
    config.loop.update(steps=5, log_every=5, checkpoint_every=5)
    for workdir in (folder / "run", folder / "again"):
        workdir.mkdir()
    return config


def test_a_run_begins_with_a_tower_that_knows_the_answers(tmp_path):
    config = tower_run(tmp_path, 3)
    train.train(run_of(config, tmp_path / "run"))
    (kept,) = (tmp_path / "cache").glob("tower-*.msgpack")
    tower = flax.serialization.msgpack_restore(kept.read_bytes())
    got = load_checkpoint(tmp_path / "run").params["vision_tower"]
    jax.tree.map(np.testing.assert_array_equal, got, tower)
    # Another run of the same data finds it.
    made = kept.stat().st_mtime_ns
    train.train(run_of(config, tmp_path / "again"))
    again = load_checkpoint(tmp_path / "again").params["vision_tower"]
    jax.tree.map(np.testing.assert_array_equal, again, got)
    assert kept.stat().st_mtime_ns == made


def test_a_tower_is_not_taught_by_answers_about_several_pictures(tmp_path):
    config = tower_run(tmp_path, 6)
    with pytest.raises(
        UserError, match="about one picture, and 1 samples have several"
    ):
        train.train(run_of(config, tmp_path / "run"))
