"""The learning rate's course, and what trains at all."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tolerances import REORDERED
from visor_jax.training.optimizer import (
    OptimizerSettings,
    learning_rates,
    make_optimizer,
    merge,
    split_frozen,
)
from visor_jax.training.parameter_groups import ParameterGroup, latest_rates

PARAMS = {
    "vision_tower": {"fc1": {"kernel": jnp.ones(2)}},
    "language_model": {"norm": {"scale": jnp.ones(3)}, "head": {"kernel": jnp.ones(1)}},
}


def test_learning_rate_rises_stays_and_falls_linearly():
    settings = OptimizerSettings(
        learning_rate=2.0, warmup_steps=10, constant_until=0.4, decay="linear"
    )
    rate = learning_rates(settings, num_steps=100)["rest"]
    got = [float(rate(s)) for s in (0, 5, 10, 39, 40, 70, 100)]
    np.testing.assert_allclose(got, [0, 1, 2, 2, 2, 1, 0], atol=1e-6)


def test_cosine_decay_is_half_way_in_the_middle():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=20, decay="cosine")
    rate = learning_rates(settings, num_steps=100)["rest"]
    np.testing.assert_allclose(float(rate(60)), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decay": "step"},
        {"constant_until": 1.5},
        {"learning_rate": 0.0},
        {"clip_norm": -1.0},
        {"warmup_steps": -1},
        {"accumulate": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        OptimizerSettings(**{"learning_rate": 1.0, **wrong})


def test_the_group_of_all_others_cannot_be_named():
    with pytest.raises(ValueError, match="'rest' is the group"):
        grouped(rest=("a", 1.0))


def test_warm_up_must_fit_the_run():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10)
    with pytest.raises(ValueError, match="warmup_steps=10"):
        learning_rates(settings, num_steps=10)


def grouped(**groups):
    """Returns settings with groups of {name: (pattern, learning rate)}."""
    return OptimizerSettings(
        learning_rate=0.5,
        weight_decay=0.1,
        clip_norm=1e9,
        warmup_steps=2,
        groups={
            name: ParameterGroup(pattern=pattern, learning_rate=rate)
            for name, (pattern, rate) in groups.items()
        },
    )


def test_every_group_moves_at_its_own_rate_and_the_state_says_which():
    settings = grouped(
        tower=("^vision_tower/", 0.01), head=("head", 2.0), norm=("norm", None)
    )
    optimizer, peaks = make_optimizer(settings, 10), {"fc1": 0.01, "head": 2.0}
    state, params = optimizer.init(PARAMS), PARAMS
    gradients = jax.tree.map(lambda p: jnp.sin(jnp.arange(p.size) + 1.0), PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for path, start in flax.traverse_util.flatten_dict(PARAMS, sep="/").items():
        peak = next((r for part, r in peaks.items() if part in path), 0.5)
        alone = optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, peak, 2, 10), weight_decay=0.1
        )
        of_path = flax.traverse_util.flatten_dict(gradients, sep="/")[path]
        expected, moments = start, alone.init(start)
        for _ in range(3):
            update, moments = alone.update(of_path, moments, expected)
            expected = expected + update
        np.testing.assert_allclose(flat[path], expected, **REORDERED)
    # The third step is the first after the warm-up: every rate is at its peak.
    assert latest_rates(state) == pytest.approx(
        {"tower": 0.01, "head": 2, "norm": 0.5, "rest": 0.5}
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ("babel", 1.0)}, "group 'a' is empty.*'babel'"),
        ({"a": ("kernel", 1.0), "b": ("head", 1.0)}, "head/kernel in .'a', 'b'"),
    ],
)
def test_groups_that_make_no_sense_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(grouped(**groups), 10).init(PARAMS)


@pytest.mark.parametrize(
    "wrong", [{"pattern": ""}, {"pattern": "("}, {"learning_rate": 0.0}]
)
def test_a_group_needs_a_pattern_and_a_rate(wrong):
    with pytest.raises(ValueError, match=r"pattern|learning_rate"):
        ParameterGroup(**{"pattern": "a", "learning_rate": 1.0, **wrong})


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
