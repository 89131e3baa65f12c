import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from visor_jax.training.skipped_steps import (
    SKIPPED,
    SkippedStepsFile,
    TooManySkippedSteps,
    skip_if_bad,
)
from visor_jax.training.state import SkippedSteps, TrainState


def first_state() -> TrainState:
    params = {"w": jnp.array([1.0, -2.0])}
    return TrainState.create(params, optax.adam(0.1), (), seed=0, num_budgets=1)


def make_step(skip_norm=None):
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(state: TrainState, scale) -> TrainState:
        loss, grads = jax.value_and_grad(lambda p: jnp.sum(scale * p["w"] ** 2))(
            state.params
        )
        updates, opt_state = optimizer.update(grads, state.opt_state)
        norm = optax.tree.norm(grads)
        updated = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            sums=state.sums.add(jnp.int32(0), steps=jnp.ones(()), loss=loss),
        )
        return skip_if_bad(
            state, updated, loss=loss, grad_norm=norm, skip_norm=skip_norm
        )

    return step


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9])
def test_a_bad_step_changes_nothing_but_the_counters(bad):
    step = make_step(skip_norm=1e6)
    with_bad, without = first_state(), first_state()
    for scale in (1.0, bad, 0.5):
        with_bad = step(with_bad, scale)
    for scale in (1.0, 0.5):
        without = step(without, scale)
    assert (int(with_bad.step), int(without.step)) == (3, 2)
    assert int(with_bad.skipped.count) == 1
    assert with_bad.skipped.last.tolist()[:2] == [2, 0]
    for part in ("params", "opt_state", "sums", "key"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(with_bad, part),
            getattr(without, part),
        )


def test_large_gradients_are_no_reason_without_a_limit():
    state = make_step()(first_state(), 1e9)
    assert int(state.skipped.count) == 0
    assert not np.array_equal(state.params["w"], first_state().params["w"])


def record(*steps: int) -> SkippedSteps:
    skipped = SkippedSteps.none()
    for step in steps:
        skipped = skipped.add(jnp.int32(step), jnp.array(True))
    return skipped


def test_the_file_names_every_skipped_step_and_its_rows(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=16, limit=2)
    assert file.note(record()) == 0
    assert not (tmp_path / SKIPPED).exists()
    assert file.note(record(3)) == 1
    assert file.too_many() is None
    # A run that went on from a checkpoint before step 7 meets it again.
    for _ in range(2):
        file = SkippedStepsFile(tmp_path, batch_size=16, limit=2)
        assert file.note(record(3, 7)) == 2
    assert json.loads((tmp_path / SKIPPED).read_text()) == {
        "count": 2,
        "steps": [{"step": 3, "rows": [32, 48]}, {"step": 7, "rows": [96, 112]}],
    }
    assert file.too_many() is None
    file.note(record(3, 7, 8))
    reason = file.too_many()
    assert isinstance(reason, TooManySkippedSteps)
    assert "3 steps were skipped" in str(reason)
    assert str(tmp_path / SKIPPED) in str(reason)


def test_more_steps_than_the_state_remembers_stay_in_the_file(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=1, limit=10**6)
    kept = SkippedSteps.KEPT
    file.note(record(*range(1, kept + 1)))
    file.note(record(*range(1, kept + 4)))
    written = json.loads((tmp_path / SKIPPED).read_text())
    assert [each["step"] for each in written["steps"]] == list(range(1, kept + 4))


def test_only_the_first_process_writes(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=1, limit=0, enabled=False)
    assert file.note(record(5)) == 1
    assert isinstance(file.too_many(), TooManySkippedSteps)
    assert not (tmp_path / SKIPPED).exists()
