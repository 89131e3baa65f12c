"""The learning rate's course, and what trains at all."""

import jax.numpy as jnp
import numpy as np
import pytest

from visor_jax.training.optimizer import (
    OptimizerSettings,
    learning_rate_schedule,
    merge,
    split_frozen,
)

PARAMS = {
    "vision_tower": {"fc1": {"kernel": jnp.ones(2)}},
    "language_model": {"norm": {"scale": jnp.ones(3)}, "head": {"kernel": jnp.ones(1)}},
}


def test_learning_rate_rises_stays_and_falls_linearly():
    settings = OptimizerSettings(
        learning_rate=2.0, warmup_steps=10, constant_until=0.4, decay="linear"
    )
    rate = learning_rate_schedule(settings, num_steps=100)
    got = [float(rate(s)) for s in (0, 5, 10, 39, 40, 70, 100)]
    np.testing.assert_allclose(got, [0, 1, 2, 2, 2, 1, 0], atol=1e-6)


def test_cosine_decay_is_half_way_in_the_middle():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=20, decay="cosine")
    rate = learning_rate_schedule(settings, num_steps=100)
    np.testing.assert_allclose(float(rate(60)), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decay": "step"},
        {"constant_until": 1.5},
        {"learning_rate": 0.0},
        {"clip_norm": -1.0},
        {"warmup_steps": -1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        OptimizerSettings(**{"learning_rate": 1.0, **wrong})


def test_warm_up_must_fit_the_run():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10)
    with pytest.raises(ValueError, match="warmup_steps=10"):
        learning_rate_schedule(settings, num_steps=10)


def test_split_and_merge_are_inverse():
    trainable, frozen = split_frozen(PARAMS, ("^vision_tower",))
    assert set(trainable) == {"language_model"}
    assert set(frozen) == {"vision_tower"}
    assert merge(trainable, frozen) == PARAMS


@pytest.mark.parametrize(
    ("patterns", "message"), [(("tower_of_babel",), "match no"), ((".",), "nothing to")]
)
def test_patterns_that_make_no_sense_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        split_frozen(PARAMS, patterns)
