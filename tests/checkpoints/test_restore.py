import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoints.saved import load_checkpoint
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.checkpoints.restore import (
    gb_at_once,
    newest_readable,
    read_arrays,
    read_metadata,
)

_ROOT = Path(__file__).parents[2]
METADATA = {"model": {}, "budgets": ["sa0"], "task": "universal", "metrics_offset": 0}


def _params(step):
    # Random, so that the file is larger than its index and can be cut in the middle.
    return {"a": {"w": jax.random.normal(jax.random.key(step), (64, 32))}}


def _make_run(workdir, *steps):
    with CheckpointManager(workdir, save_every=1) as manager:
        for step in steps:
            manager.save(
                step,
                params=_params(step),
                optimizer={"step": jnp.int32(step)},
                data_iterator=None,
                metadata=METADATA,
            )
    return workdir


def _largest_file(directory: Path) -> Path:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/2"])
def test_a_path_is_enough(tmp_path, inside, monkeypatch):
    _make_run(tmp_path / "run", 1, 2)
    monkeypatch.chdir(tmp_path)
    loaded = load_checkpoint(f"run/{inside}")
    assert loaded.step == 2
    assert read_metadata(f"run/{inside}")["task"] == "universal"
    np.testing.assert_array_equal(loaded.params["a"]["w"], _params(2)["a"]["w"])


def test_dtype_follows_the_abstract_tree(tmp_path):
    _make_run(tmp_path, 1)
    abstract = {"a": {"w": jax.ShapeDtypeStruct((64, 32), jnp.bfloat16)}}
    assert load_checkpoint(tmp_path, abstract).params["a"]["w"].dtype == jnp.bfloat16


def _truncate(step):
    file = _largest_file(step / "params")
    os.truncate(file, file.stat().st_size // 2)


def _delete_arrays(step):
    _largest_file(step / "params").unlink()


def _delete_tree(step):
    (step / "params" / "_METADATA").unlink()


def _empty_metadata(step):
    os.truncate(step / "metadata" / "metadata", 0)


@pytest.mark.parametrize(
    "damage", [_truncate, _delete_arrays, _delete_tree, _empty_metadata]
)
def test_damaged_step_gives_way_to_the_one_before(tmp_path, damage, caplog):
    _make_run(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "2"
    damage(newest)
    with caplog.at_level("WARNING"):
        assert load_checkpoint(tmp_path).step == 1
    assert f"{newest} is damaged" in caplog.text
    assert "checkpoints/1 instead" in caplog.text
    with pytest.raises(ValueError, match=r"is damaged or half written.*Delete"):
        load_checkpoint(newest)
    _make_run(tmp_path, 3)
    with pytest.raises(ValueError, match=r"is damaged or half written.*Delete"):
        load_checkpoint(newest)


def _removed_while_read(workdir, newer, remove=shutil.rmtree):
    """Returns a reader whose first look comes after the run has gone on."""
    looked = []

    def read(step):
        if not looked and newer:
            _make_run(workdir, newer)
            remove(workdir / "checkpoints/2")
        looked.append(step.name)
        metadata = layout.read_step_metadata(step)
        read_arrays(step, layout.PARAMS, _params(0))
        return metadata["step"], looked

    return read


@pytest.mark.parametrize(
    # Gone, or half of it: files go one after the other.
    "remove",
    [shutil.rmtree, _delete_arrays, _empty_metadata],
)
def test_a_step_that_its_run_removes_while_it_is_read_is_not_damaged(
    tmp_path, remove, caplog
):
    _make_run(tmp_path, 1, 2)
    with caplog.at_level("INFO"):
        found = newest_readable(tmp_path, _removed_while_read(tmp_path, 3, remove))
    assert found == (3, ["2", "3"])
    (said,) = [m for m in caplog.messages if "checkpoints/2" in m]
    assert "was removed by its run while it was read" in said
    assert said.endswith("checkpoints/3.")
    assert "damaged" not in caplog.text


def test_a_step_that_was_asked_for_and_is_removed_is_an_error(tmp_path):
    _make_run(tmp_path, 1, 2)
    read = _removed_while_read(tmp_path, 3)
    with pytest.raises(ValueError, match=r"was removed by its run.*Give its workdir"):
        newest_readable(tmp_path / "checkpoints/2", read)


def test_half_written_directory_is_named_as_such(tmp_path):
    half = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    with pytest.raises(ValueError, match="only half-written"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"is half written.*Give the workdir"):
        load_checkpoint(half)
    _make_run(tmp_path, 1)
    half.mkdir(parents=True)
    assert load_checkpoint(tmp_path).step == 1


def test_what_is_not_a_checkpoint_is_explained(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a checkpoint: give a workdir"):
        read_metadata(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"visor_jax\.convert"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_metadata_of_another_program_is_refused(tmp_path):
    _make_run(tmp_path, 1, 2)
    file = tmp_path / "checkpoints/2/metadata/metadata"
    file.write_text(json.dumps({"anything": 1}))
    with pytest.raises(ValueError, match="metadata format None"):
        load_checkpoint(tmp_path)


def test_another_model_is_refused_and_not_passed_over(tmp_path):
    _make_run(tmp_path, 1, 2)
    expected = {"a": {"w": jnp.ones((64, 31)), "v": jnp.ones(2)}}
    with pytest.raises(ValueError, match="checkpoints/2 is of another model") as error:
        load_checkpoint(tmp_path, expected)
    assert "missing in the checkpoint (1):\n    a/v (2,)" in str(error.value)
    assert "a/w is (64, 32), not (64, 31)" in str(error.value)


_SAVE_SHARDED = """
    import sys
    import jax, jax.numpy as jnp
    from visor_jax.checkpoints.manager import CheckpointManager
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("d"))
    params = {"w": jax.device_put(jnp.arange(64.0).reshape(16, 4), sharding)}
    with CheckpointManager(sys.argv[1], save_every=1) as manager:
        manager.save(1, params=params, optimizer={"step": jnp.int32(1)},
                     data_iterator=None, metadata={"model": {}, "budgets": [],
                     "task": "t", "metrics_offset": 0})
"""
_KILLED_WHILE_SAVING = """
    import os, signal, sys
    import jax.numpy as jnp
    from visor_jax.checkpoints.manager import CheckpointManager
    manager = CheckpointManager(sys.argv[1], save_every=1)
    for step in (1, 2):
        manager.wait()
        params = {"w": jnp.full((4000, 4000), step, jnp.float32)}
        manager.save(step, params=params, optimizer={"step": jnp.int32(step)},
                     data_iterator=None, metadata={"model": {}, "budgets": [],
                     "task": "t", "metrics_offset": 0})
    os.kill(os.getpid(), signal.SIGKILL)
"""
_LOAD_ON_TWO = """
    import sys
    import jax, jax.numpy as jnp
    from tests.checkpoints.saved import load_checkpoint
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P(None, "d"))
    abstract = {"w": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=sharding)}
    params = load_checkpoint(sys.argv[1], abstract).params
    assert params["w"].sharding == sharding
    assert (params["w"] == jnp.arange(64.0).reshape(16, 4)).all()
"""


def _run(script, devices, *arguments, check=True):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


def test_saved_on_8_devices_opens_on_1_and_on_2_without_noise(tmp_path, caplog):
    saving = _run(_SAVE_SHARDED, 8, tmp_path)
    loading = _run(_LOAD_ON_TWO, 2, tmp_path)
    assert saving.stderr + loading.stderr == ""
    params = load_checkpoint(tmp_path).params
    assert params["w"].devices() == {jax.local_devices()[0]}
    np.testing.assert_array_equal(params["w"], np.arange(64.0).reshape(16, 4))
    assert not [record for record in caplog.records if "orbax" in record.pathname]


def test_run_killed_while_saving_opens_at_the_step_before(tmp_path):
    killed = _run(_KILLED_WHILE_SAVING, 1, tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "checkpoints" / "2").exists()
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert (loaded.params["w"] == 1).all()
    _make_run(tmp_path, 2)
    assert load_checkpoint(tmp_path).step == 2
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["1", "2"]


def test_so_much_is_read_at_once_as_the_largest_array_needs():
    small, large = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8,), (10**9, 2))
    )
    assert gb_at_once({"a": small, "b": {"c": small}}) == 4
    # It may be stored in float32: 8 GB, and there has to be more room than that.
    assert gb_at_once({"a": small, "b": {"c": large}}) == 9
    assert gb_at_once({}) == 4
