"""The loop around a network of one number: bad steps, failed saves, stopping."""

import functools
import json
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tolerances import REORDERED
from tests.training.metric_lines import metric_lines
from visor_jax.checkpoints.manager import CheckpointManager, SavingError
from visor_jax.runtime.interruption import Interruption
from visor_jax.training import loop
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.objectives.universal_step import summary
from visor_jax.training.skipped_steps import (
    SKIPPED,
    SkippedStepsFile,
    TooManySkippedSteps,
)
from visor_jax.training.state import TrainState
from visor_jax.training.update import update

METADATA = {"model": {}, "budgets": ["sa0"], "task": "t"}
STEPS, BATCH = 12, 4
SGD = optax.sgd(0.1)


def create() -> TrainState:
    params = {"w": jnp.ones(())}
    return TrainState.create(params, SGD, (), seed=0, num_budgets=1)


@jax.jit
def step(state: TrainState, batch) -> TrainState:
    loss, grads = jax.value_and_grad(lambda p: jnp.mean(p["w"] * batch))(state.params)
    sums = functools.partial(
        state.sums.add, jnp.int32(0), steps=jnp.ones(()), loss=loss
    )
    return update(state, grads, SGD, frozen=(), loss=loss, sums=sums)


def batches(bad_steps=()):
    """Returns rows 0, 1, 2, ... of which those of the bad steps (from 1) are NaN."""

    def value(row: int) -> np.float32:
        return np.float32(np.nan if row // BATCH + 1 in bad_steps else row % 7)

    rows = grain.MapDataset.range(STEPS * BATCH).map(value)
    return iter(rows.batch(BATCH).to_iter_dataset())


def run(workdir, bad_steps=(), *, limit=20, interruption=None):
    data = batches(bad_steps)
    settings = loop.LoopSettings(
        steps=STEPS, log_every=2, checkpoint_every=3, max_skipped_steps=limit
    )
    with (
        MetricWriter(workdir) as writer,
        CheckpointManager(workdir, save_every=3) as checkpoints,
    ):
        files = loop.RunFiles(
            writer=writer,
            checkpoints=checkpoints,
            skipped=SkippedStepsFile(workdir, batch_size=BATCH, limit=limit),
            metadata=METADATA,
            began=time.monotonic(),
        )
        state = loop.resume(create(), data, files) or create()
        return loop.run(
            state,
            data,
            step,
            put=jnp.asarray,
            settings=settings,
            summary=functools.partial(summary, names=("sa0",)),
            learning_rates={"learning_rate": lambda _: 0.1},
            files=files,
            interruption=interruption or Interruption(),
        )


def expected_weight(bad_steps=()) -> np.float32:
    """Returns what the steps that are not bad make of the number 1."""
    rows = (np.arange(STEPS * BATCH) % 7).reshape(STEPS, BATCH)
    good = [n for n in range(STEPS) if n + 1 not in bad_steps]
    return 1 - 0.1 * rows[good].mean(axis=1).sum()


def test_bad_steps_are_left_out_counted_and_named(tmp_path):
    state, done = run(tmp_path, bad_steps=(2, 5))
    assert done == STEPS
    np.testing.assert_allclose(state.params["w"], expected_weight((2, 5)), **REORDERED)
    counts = [line["skipped_steps"] for line in metric_lines(tmp_path)]
    assert counts == [1, 1, 2, 2, 2, 2]
    assert json.loads((tmp_path / SKIPPED).read_text())["steps"] == [
        {"step": 2, "rows": [4, 8]},
        {"step": 5, "rows": [16, 20]},
    ]


def test_a_line_without_a_step_that_counts_has_no_loss(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "visor_jax.training.tensorboard_file.TensorBoardFile.write",
        lambda _, step, values: drawn.extend((name, step) for name in values),
    )
    run(tmp_path, bad_steps=range(3, STEPS + 1))
    lines = metric_lines(tmp_path)
    averages = {"loss", "loss/sa0", "accuracy", "accuracy/sa0", "grad_norm"}
    # Two steps a line, and the first line has the only ones that were taken.
    assert lines[0]["loss"] == pytest.approx((1.5 + (1 - 0.15) * 3.75) / 2)
    assert all(not averages & line.keys() for line in lines[1:])
    assert [line["skipped_steps"] for line in lines] == [0, 2, 4, 6, 8, 10]
    assert [step for name, step in drawn if name == "loss"] == [2]
    assert ("skipped_steps", STEPS) in drawn
    (shown,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("step")]
    assert shown.startswith(f"step {STEPS}/{STEPS}  skipped_steps 10  data_wait_s")


def test_too_many_bad_steps_stop_the_run_which_a_higher_limit_goes_on_with(tmp_path):
    bad = (3, 4, 6)
    with pytest.raises(TooManySkippedSteps, match=r"3 steps.*max_skipped_steps is 2"):
        run(tmp_path, bad, limit=2)
    assert (tmp_path / "checkpoints/6").exists()
    # The same command stops again, at the next line.
    with pytest.raises(TooManySkippedSteps):
        run(tmp_path, bad, limit=2)
    state, done = run(tmp_path, bad, limit=3)
    assert done == STEPS
    np.testing.assert_allclose(state.params["w"], expected_weight(bad), **REORDERED)
    straight = tmp_path / "straight"
    run(straight, bad, limit=3)
    lines = [(d / "metrics.jsonl").read_bytes() for d in (tmp_path, straight)]
    assert lines[0] == lines[1]


def test_an_error_while_saving_in_the_background_ends_the_run(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CompositeCheckpointHandler.finalize", full)
    with pytest.raises(SavingError, match=r"(?s)No space left.*free space"):
        run(tmp_path)
    assert metric_lines(tmp_path)[-1]["step"] < STEPS


def test_a_request_to_stop_is_met_after_the_step_and_saved(tmp_path):
    class Asked(Interruption):
        def agreed(self, step: int) -> bool:
            return step == 5

    _, done = run(tmp_path, interruption=Asked())
    assert done == 5
    assert (tmp_path / "checkpoints/5").exists()
    state, done = run(tmp_path)
    assert done == STEPS
    np.testing.assert_allclose(state.params["w"], expected_weight(), **REORDERED)
