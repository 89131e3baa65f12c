"""The end of a step against optax and the formula of SGD by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tolerances import EXACT, REORDERED
from visor_jax.training.state import TrainState
from visor_jax.training.update import update

PARAMS = {
    "tower": {"w": jnp.array([3.0, 5.0])},
    "text": {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)},
}
FROZEN = ("^tower/",)
# Of the trainable ones alone; their norm is 5.
GRADS = {"text": {"w": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)}}
SGD = optax.sgd(0.1, momentum=0.9)


def before(optimizer=SGD) -> TrainState:
    return TrainState.create(PARAMS, optimizer, FROZEN, seed=0, num_budgets=2)


@functools.partial(jax.jit, static_argnames=("optimizer", "skip_norm"))
def after(state, grads, loss, *, optimizer=SGD, skip_norm=None) -> TrainState:
    """Returns the state after a step at the second of two budgets."""
    sums = functools.partial(state.sums.add, jnp.int32(1), loss=loss)
    return update(
        state,
        grads,
        optimizer,
        frozen=FROZEN,
        loss=loss,
        sums=sums,
        skip_norm=skip_norm,
    )


def assert_same(found, expected, tolerance=EXACT):
    equal = functools.partial(np.testing.assert_allclose, **tolerance)
    jax.tree.map(equal, found, expected)


def test_what_trains_descends_with_momentum_and_what_is_frozen_stays():
    state = after(after(before(), GRADS, 2.0), GRADS, 3.0)
    # Two steps along the same gradient: 1 + (1 + 0.9) of it.
    assert_same(state.params["text"]["w"], [1 - 0.1 * 2.9 * 3, -2.0], REORDERED)
    assert_same(state.params["text"]["b"], 0.5 + 0.1 * 2.9 * 4, REORDERED)
    assert_same(state.params["tower"], PARAMS["tower"])
    assert state.step == 2
    assert state.skipped.count == 0


def test_any_optimiser_sees_the_trainable_parameters_and_its_own_state():
    adamw = optax.adamw(0.1, weight_decay=0.5)
    state = before(adamw)
    params, moments = PARAMS["text"], adamw.init(PARAMS["text"])
    for scale in (1.0, -0.5, 2.0):
        grads = jax.tree.map(lambda g, s=scale: s * g, GRADS)
        state = after(state, grads, 1.0, optimizer=adamw)
        updates, moments = adamw.update(grads["text"], moments, params)
        params = optax.apply_updates(params, updates)
    assert_same(state.params["text"], params, REORDERED)
    found = jax.tree.leaves(state.opt_state)
    assert_same(found, jax.tree.leaves(moments), REORDERED)
    assert_same(state.params["tower"], PARAMS["tower"])


def test_sums_get_the_norm_of_the_gradients_before_any_clipping():
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    state = after(before(clipped), GRADS, 2.0, optimizer=clipped)
    assert_same(state.sums.grad_norm, [0.0, 5.0])
    assert_same(state.sums.loss, [0.0, 2.0])
    # What moves is clipped to a fifth.
    assert_same(state.params["text"]["b"], 0.5 + 0.1 * 4 / 5, REORDERED)


NAN_GRADS = jax.tree.map(lambda g: g.at[...].set(jnp.nan), GRADS)


@pytest.mark.parametrize(
    ("grads", "loss", "skip_norm"),
    [
        (GRADS, np.nan, None),
        (GRADS, np.inf, None),
        (NAN_GRADS, 1.0, None),
        (GRADS, 1.0, 4.9),
    ],
)
def test_a_bad_step_changes_nothing_but_the_counters(grads, loss, skip_norm):
    first = after(before(), GRADS, 1.0)
    second = after(first, grads, loss, skip_norm=skip_norm)
    for part in ("params", "opt_state", "sums", "key"):
        assert_same(getattr(second, part), getattr(first, part))
    assert second.step == 2
    assert second.skipped.count == 1
    assert second.skipped.last[0] == 2


def test_gradients_up_to_the_limit_are_taken_and_any_without_one():
    assert after(before(), GRADS, 1.0, skip_norm=5.0).skipped.count == 0
    huge = after(before(), jax.tree.map(lambda g: 1e9 * g, GRADS), 1.0)
    assert huge.skipped.count == 0
    assert_same(huge.params["text"]["b"], 0.5 + 4e8, REORDERED)
