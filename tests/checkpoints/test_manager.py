import shutil
import subprocess
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from tests.limited_files import limited_files
from visor_jax.checkpoints.manager import CheckpointManager, SavingError

METADATA = {"model": {"width": 4}, "budgets": ["sa0"], "task": "t", "metrics_offset": 7}


def _params(scale=1.0):
    return {"a": {"w": scale * jnp.arange(8.0).reshape(4, 2)}, "b": jnp.ones(3)}


def _optimizer(step=0):
    labels = {"a": {"w": "on"}, "b": "off"}
    groups = {"on": optax.adamw(1e-3), "off": optax.set_to_zero()}
    state = optax.chain(
        optax.clip_by_global_norm(1.0), optax.multi_transform(groups, labels)
    ).init(_params())
    return {"state": state, "step": jnp.int32(step), "key": jax.random.key(step)}


def _data():
    return iter(grain.MapDataset.range(100).shuffle(1).to_iter_dataset().batch(2))


def _save(manager, step, data=None, **kwargs):
    return manager.save(
        step,
        params=_params(step),
        optimizer=_optimizer(step),
        data_iterator=data,
        metadata=METADATA,
        **kwargs,
    )


def test_training_goes_on_where_it_was_saved(tmp_path):
    data = _data()
    for _ in range(3):
        next(data)
    with CheckpointManager(tmp_path, save_every=2) as manager:
        assert _save(manager, 2, data)
        # Goes on at once, while the files are written.
        following = [next(data) for _ in range(5)]
    resumed = _data()
    with CheckpointManager(tmp_path, save_every=2) as manager:
        assert manager.latest_step() == 2
        params, optimizer, metadata = manager.restore_training(
            jax.eval_shape(_params), _optimizer(), resumed
        )
    np.testing.assert_array_equal(params["a"]["w"], _params(2)["a"]["w"])
    assert jax.tree.structure(optimizer) == jax.tree.structure(_optimizer())
    assert optimizer["step"] == 2
    assert jnp.all(
        jax.random.key_data(optimizer["key"]) == jax.random.key_data(jax.random.key(2))
    )
    assert metadata == {**METADATA, "format": 1, "step": 2}
    for batch in following:
        np.testing.assert_array_equal(next(resumed), batch)


def test_donating_the_arrays_after_saving_does_not_change_the_checkpoint(tmp_path):
    params = _params()
    step = jax.jit(lambda p: jax.tree.map(lambda x: x * 0 - 1, p), donate_argnums=0)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        manager.save(
            1, params=params, optimizer={"step": 1}, data_iterator=None,
            metadata=METADATA,
        )  # fmt: skip
        jax.block_until_ready(step(params))
        manager.wait()
        restored, _, _ = manager.restore_training(
            jax.eval_shape(_params), {"step": jnp.int32(0)}, None
        )
    np.testing.assert_array_equal(restored["a"]["w"], _params()["a"]["w"])


def test_saves_when_due_keeps_the_newest_and_never_step_0(tmp_path):
    with CheckpointManager(tmp_path, save_every=2, keep=2) as manager:
        begun = [step for step in range(8) if _save(manager, step)]
        assert begun == [2, 4, 6]
        assert not _save(manager, 0, force=True)
        assert _save(manager, 7, force=True)
        assert not _save(manager, 7, force=True)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["6", "7"]


def test_half_written_checkpoint_is_never_chosen(tmp_path):
    with CheckpointManager(tmp_path, save_every=1) as manager:
        _save(manager, 1)
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (half / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        assert manager.latest_step() == 1
        assert _save(manager, 2)
    assert not half.exists()


def test_restoring_another_model_lists_every_key(tmp_path):
    with CheckpointManager(tmp_path, save_every=1) as manager:
        _save(manager, 1)
        manager.wait()
        other = {"a": {"w": jnp.ones((4, 3))}, "c": jnp.ones(2)}
        with pytest.raises(ValueError, match="of another model") as error:
            manager.restore_training(other, _optimizer(), None)
    for line in ("c (2,)", "b (3,)", "a/w is (4, 2), not (4, 3)", str(tmp_path)):
        assert line in str(error.value)


def test_a_full_disk_is_named_and_leaves_earlier_checkpoints(tmp_path):
    rng = np.random.default_rng(0)
    large = {"w": rng.normal(size=2**18)}
    rest = {"optimizer": {"step": 1}, "data_iterator": None, "metadata": METADATA}
    manager = CheckpointManager(tmp_path, save_every=1)
    _save(manager, 1)
    manager.wait()
    said = r"failed \(File too large\)\. Checkpoints finished before are intact"
    with limited_files(2**19):
        manager.save(2, params=large, **rest)
        with pytest.raises(SavingError, match=said):
            manager.wait()
    with CheckpointManager(tmp_path, save_every=1) as manager:
        assert manager.latest_step() == 1
        manager.restore_training(_params(), _optimizer(), None)


_FULL = """
import resource, sys
import numpy as np
from visor_jax.checkpoints.manager import CheckpointManager, SavingError

metadata = {"model": 1, "budgets": 1, "task": 1, "metrics_offset": 1}
rng = np.random.default_rng(0)
params = {str(i): rng.normal(size=2**12) for i in range(200)}
manager = CheckpointManager(sys.argv[1], save_every=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, resource.RLIM_INFINITY))
try:
    with manager:
        manager.save(
            1, params=params, optimizer=params, data_iterator=None, metadata=metadata
        )
        manager.wait()
except SavingError as error:
    print(error)
"""


def test_a_full_disk_is_told_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FULL, tmp_path], capture_output=True, text=True
    )
    assert "failed (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode == 0


def test_error_in_the_background_surfaces_at_the_next_call(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    manager = CheckpointManager(tmp_path, save_every=1)
    monkeypatch.setattr("orbax.checkpoint.CompositeCheckpointHandler.finalize", full)
    assert _save(manager, 1)
    with pytest.raises(RuntimeError, match="No space left on device"):
        manager.wait()
    assert manager.latest_step() is None


def test_another_number_of_data_workers_is_refused(tmp_path):
    # Worker processes ask absl for flags.
    flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=2)
    data = grain.MapDataset.range(100).to_iter_dataset().mp_prefetch(workers)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        _save(manager, 1, _data())
        manager.wait()
        iterator = iter(data)
        with pytest.raises(ValueError, match=r"no data workers and this run has \[2\]"):
            manager.restore_training(_params(), _optimizer(), iterator)
        iterator.close()


def _batches():
    """Returns an iterator whose place is the number of batches that were read."""
    return iter(grain.MapDataset.range(100).shuffle(1).batch(2).to_iter_dataset())


def _saved_by_four(tmp_path, data, steps=3):
    """Saves after some steps, and makes it look as if four processes had."""
    for _ in range(steps):
        next(data)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        _save(manager, 3, data)
    position = tmp_path / "checkpoints/3/data/process_0-of-1.json"
    for process in range(4):
        other = position.with_name(f"process_{process}-of-4.json")
        other.write_text(position.read_text())
    position.unlink()


def test_another_number_of_processes_goes_on_with_the_same_batches(tmp_path):
    data, resumed = _batches(), _batches()
    _saved_by_four(tmp_path, data)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        manager.restore_training(_params(), _optimizer(), resumed)
    np.testing.assert_array_equal(next(resumed), next(data))


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        # Its place counts what one process has read, not its batches.
        (_data, 3),
        # A batch was read in vain.
        (_batches, 4),
    ],
)
def test_a_place_that_belongs_to_a_process_is_refused(tmp_path, make, steps):
    _saved_by_four(tmp_path, make(), steps)
    with (
        CheckpointManager(tmp_path, save_every=1) as manager,
        pytest.raises(ValueError, match="as many processes as saved it"),
    ):
        manager.restore_training(_params(), _optimizer(), make())


def _shorten(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _largest(folder):
    return max(
        folder.rglob("*"), key=lambda file: file.is_file() and file.stat().st_size
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: _shorten(_largest(step / "params")),
        lambda step: _shorten(_largest(step / "optimizer")),
        lambda step: _shorten(step / "metadata/metadata"),
        lambda step: _shorten(step / "data/process_0-of-1.json"),
        lambda step: shutil.rmtree(step / "params"),
    ],
)
def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    data, resumed = _batches(), _batches()
    checkpoints = tmp_path / "checkpoints"
    with CheckpointManager(tmp_path, save_every=1) as manager:
        for step in (1, 2):
            next(data)
            _save(manager, step, data)
    damage(checkpoints / "2")
    with CheckpointManager(tmp_path, save_every=1) as manager:
        params, _, metadata = manager.restore_training(_params(), _optimizer(), resumed)
        assert metadata["step"] == 1
        np.testing.assert_array_equal(params["a"]["w"], _params(1)["a"]["w"])
        assert next(resumed).tolist() != next(data).tolist()
        # The step is done again and saved under its own name.
        assert _save(manager, 2, resumed)
    assert "2 is damaged or half written" in caplog.text
    assert "kept as 2.damaged; going on from step 1 instead" in caplog.text
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == ["1", "2", "2.damaged"]
    with CheckpointManager(tmp_path, save_every=1) as manager:
        assert manager.restore_training(_params(), _optimizer(), _batches())


def test_the_only_checkpoint_is_not_put_aside(tmp_path):
    with CheckpointManager(tmp_path, save_every=1) as manager:
        _save(manager, 1)
    _shorten(tmp_path / "checkpoints/1/metadata/metadata")
    with (
        CheckpointManager(tmp_path, save_every=1) as manager,
        pytest.raises(ValueError, match="Delete this directory"),
    ):
        manager.restore_training(_params(), _optimizer(), None)
    assert (tmp_path / "checkpoints/1").exists()


def test_metadata_must_be_complete_and_json(tmp_path):
    arguments = {"params": _params(), "optimizer": {"s": 1}, "data_iterator": None}
    with CheckpointManager(tmp_path, save_every=1) as manager:
        with pytest.raises(ValueError, match=r"lacks \['model'"):
            manager.save(1, **arguments, metadata={"budgets": [], "task": "t"})
        with pytest.raises(ValueError, match="must be JSON"):
            manager.save(1, **arguments, metadata={**METADATA, "x": object()})
