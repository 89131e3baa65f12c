"""Folders of Hugging Face as they arrive: whole, half downloaded, or something else."""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import save_file

from visor_jax.checkpoints.hf.weights.weights_folder import (
    INDEX,
    SINGLE,
    read_visor_description,
    read_visor_weights,
    read_weights,
)

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 1789001234\n"
)
SHARDS = {
    "model-00001-of-00002.safetensors": {"a": np.ones(2, np.float32)},
    "model-00002-of-00002.safetensors": {"b": np.full(3, 2, np.float32)},
}


def sharded(folder, **changes):
    for name, tensors in SHARDS.items():
        save_file(tensors, folder / name)
    weight_map = {key: name for name, tensors in SHARDS.items() for key in tensors}
    weight_map |= changes
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_one_file_and_shards(tmp_path):
    (tmp_path / "one").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "one" / SINGLE)
    assert read_weights(tmp_path / "one")["a"].shape == (2,)
    sharded(tmp_path)
    found = {key: info.read() for key, info in read_weights(tmp_path).items()}
    np.testing.assert_array_equal(found["a"], [1, 1])
    np.testing.assert_array_equal(found["b"], [2, 2, 2])
    assert read_visor_weights(tmp_path) == {}
    assert read_visor_description(tmp_path) is None


def test_of_a_single_file_and_shards_the_single_file_is_read(tmp_path, caplog):
    """As transformers does; before, the shards were read: another network."""
    sharded(tmp_path)
    save_file({"a": np.full(2, 7, np.float32)}, tmp_path / SINGLE)
    with caplog.at_level(logging.WARNING):
        found = read_weights(tmp_path)
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"].read(), [7, 7])
    (said,) = caplog.messages
    assert f"{tmp_path} holds {SINGLE} and {INDEX}: the single file is read" in said
    # Shards that nobody reads need not be whole.
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert list(read_weights(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    "name", [SINGLE, INDEX, "model-00002-of-00002.safetensors", "visor_config.json"]
)
def test_what_git_lfs_left_out_is_called_that(tmp_path, name):
    sharded(tmp_path)
    (tmp_path / name).write_text(POINTER)
    read = read_visor_description if name == "visor_config.json" else read_weights
    with pytest.raises(ValueError, match=rf"{name} is a pointer of git-lfs.*lfs pull"):
        read(tmp_path)


def test_shards_that_are_absent_cut_short_or_others(tmp_path):
    sharded(tmp_path, c="model-3.safetensors", d="model-4.safetensors")
    with pytest.raises(ValueError, match=r"lacks 2 of the 4 .* model-3\S*, model-4"):
        read_weights(tmp_path)
    sharded(tmp_path, a="model-00002-of-00002.safetensors", c="../secret.safetensors")
    with pytest.raises(ValueError, match=r"names \['\.\./secret\.safetensors'\]"):
        read_weights(tmp_path)
    sharded(tmp_path, z="model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"00002-of-00002\S* does not hold .* z\."):
        read_weights(tmp_path)
    sharded(tmp_path)
    last = tmp_path / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"00002-of-00002\S* is cut short"):
        read_weights(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map"')
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        read_weights(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(ValueError, match="the download was not finished"):
        read_weights(tmp_path)


def test_folders_without_weights(tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint of Hugging Face"):
        read_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="pickled weights only"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="the download was not finished"):
        read_weights(tmp_path)
    (tmp_path / "visor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"visor_config\.json is damaged"):
        read_visor_description(tmp_path)
