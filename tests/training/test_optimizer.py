"""The learning rate's course, and what trains at all."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import universal
from tests import tiny
from tests.tolerances import REORDERED
from visor_jax.settings.read import read_settings
from visor_jax.training.optimizer import (
    OptimizerSettings,
    learning_rates,
    logged_learning_rates,
    make_optimizer,
    merge,
    split_frozen,
)

# With a head of its own, as at 7B.
PARAMS = tiny.params_of(tiny.NETWORKS["untied"])["params"]


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


def test_warm_up_must_fit_the_run():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10)
    with pytest.raises(ValueError, match="warmup_steps=10"):
        learning_rates(settings, num_steps=10)


def grouped(**rates):
    """Returns settings with the published groups at these learning rates."""
    config = universal.get_config("llava_ov_7b")
    published = read_settings(config, data_needed=False).optimizer.groups
    return OptimizerSettings(
        learning_rate=0.5,
        weight_decay=0.1,
        clip_norm=1e9,
        warmup_steps=2,
        groups={
            name: dataclasses.replace(group, learning_rate=rates.get(name))
            for name, group in published.items()
        },
    )


def peak_of(path):
    if "/cross_attention/" in path:
        return 2.0
    # The head is of the language model, whose group has the run's own rate.
    return {"vision_tower": 0.01, "multi_modal_projector": 0.2}.get(
        path.split("/")[0], 0.5
    )


def test_every_group_moves_at_its_own_rate_and_the_state_says_which():
    given = grouped(vision_tower=0.01, projector=0.2, adapters=2.0)
    optimizer = make_optimizer(given, 10)
    gradients = jax.tree.map(
        lambda p: jnp.sin(jnp.arange(p.size) + 1.0).reshape(p.shape), PARAMS
    )
    moved, state = after_three_steps(optimizer, PARAMS, gradients)
    start, gradients, moved = (
        flax.traverse_util.flatten_dict(tree, sep="/")
        for tree in (PARAMS, gradients, moved)
    )
    peaks = {path: peak_of(path) for path in start}
    assert set(peaks.values()) == {0.01, 0.2, 0.5, 2.0}
    for peak in set(peaks.values()):
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, 2, 10)
        alone = optax.adamw(schedule, weight_decay=0.1)
        paths = [path for path in start if peaks[path] == peak]
        expected, _ = after_three_steps(
            alone, {p: start[p] for p in paths}, {p: gradients[p] for p in paths}
        )
        for path in paths:
            np.testing.assert_allclose(moved[path], expected[path], **REORDERED)
    # The third step is the first after the warm-up: every rate is at its peak.
    rates = {name: float(rate) for name, rate in state[-1].rates.items()}
    assert rates == pytest.approx(
        {"vision_tower": 0.01, "projector": 0.2, "language_model": 0.5, "adapters": 2}
    )


def after_three_steps(optimizer, params, gradients):
    """Returns (parameters, state of the optimiser)."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_a_convolution_begins_later_and_warms_up_by_itself():
    ones = jnp.ones((2, 2))
    params = {"projector": {"convolution_kernel": ones, "linear": ones}}
    given = OptimizerSettings(
        learning_rate=0.5, warmup_steps=2, decay="linear", convolution_begins=0.5
    )
    updates = {}
    for begins in (0.5, 0.0):
        optimizer = make_optimizer(
            dataclasses.replace(given, convolution_begins=begins), 10
        )
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        updates[begins] = []
        for _ in range(10):
            found, state = update(params, state, params)
            updates[begins].append(
                [found["projector"][n][0, 0] for n in ("convolution_kernel", "linear")]
            )
    late, plain = (np.array(updates[begins]) for begins in (0.5, 0.0))
    np.testing.assert_array_equal(late[:, 1], plain[:, 1])
    share = np.array([0, 0, 0, 0, 0, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(late[:, 0], share * plain[:, 0], **REORDERED)
    assert (plain[1:, 0] != 0).all()


@pytest.mark.parametrize("begins", [-0.1, 1.0])
def test_a_convolution_begins_within_the_run(begins):
    with pytest.raises(ValueError, match=f"convolution_begins={begins} must be"):
        OptimizerSettings(learning_rate=1.0, convolution_begins=begins)


def test_the_log_has_the_rate_of_every_group_or_that_of_all():
    plain = OptimizerSettings(learning_rate=0.5)
    assert list(logged_learning_rates(plain, 10)) == ["learning_rate"]
    rates = logged_learning_rates(grouped(adapters=2.0), 10)
    names = ("vision_tower", "projector", "language_model", "adapters")
    assert {name: float(rate(2)) for name, rate in rates.items()} == pytest.approx(
        {f"learning_rate/{n}": 2.0 if n == "adapters" else 0.5 for n in names}
    )


def test_split_and_merge_are_inverse():
    trainable, frozen = split_frozen(PARAMS, ("^vision_tower",))
    assert set(trainable) == set(PARAMS) - {"vision_tower"}
    assert set(frozen) == {"vision_tower"}
    assert merge(trainable, frozen) == PARAMS


@pytest.mark.parametrize(
    ("patterns", "message"), [(("tower_of_babel",), "match no"), ((".",), "nothing to")]
)
def test_patterns_that_make_no_sense_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        split_frozen(PARAMS, patterns)
