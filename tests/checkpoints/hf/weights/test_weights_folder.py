"""Folders of Hugging Face as they arrive: whole, half downloaded, or something else."""

import json

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
