"""Against the reference implementation of safetensors, in both directions."""

import json
import os

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from visor_jax.checkpoints.hf.weights.safetensors_file import read_header, write_file

BITS = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw):
    """Returns {name: array} of one dtype, any bits: infinities and NaN too."""
    name = draw(st.sampled_from(sorted(BITS)))
    keys = draw(st.lists(st.text("ab.é", min_size=1), max_size=4, unique=True))
    bits = {key: draw(arrays.arrays(BITS[name], draw(SHAPES))) for key in keys}
    return name, {key: value.view(np.dtype(name)) for key, value in bits.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


@hypothesis.given(tensors())
def test_what_one_writes_the_other_reads(tmp_path_factory, given):
    name, expected = given
    folder = tmp_path_factory.mktemp("files")
    save_file(expected, folder / "theirs")
    infos = read_header(folder / "theirs")
    assert_same({key: info.read() for key, info in infos.items()}, expected)
    shapes = {key: value.shape for key, value in expected.items()}
    write_file(folder / "ours", shapes, np.dtype(name), expected.__getitem__)
    assert_same(load_file(folder / "ours"), expected)


def test_writing_casts_and_takes_one_tensor_at_a_time(tmp_path):
    values = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    asked = []

    def read(key):
        asked.append(key)
        return values.T

    shapes = {"b": (6, 4), "a": (6, 4)}
    write_file(tmp_path / "file", shapes, ml_dtypes.bfloat16, read)
    assert asked == ["b", "a"]
    found = load_file(tmp_path / "file")
    np.testing.assert_array_equal(found["a"], values.T.astype(ml_dtypes.bfloat16))
    with pytest.raises(ValueError, match=r"a has 24 values, not shape \(3,\)"):
        write_file(tmp_path / "wrong", {"a": (3,)}, np.float32, read)
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(ValueError, match="int32"):
        write_file(tmp_path / "wrong", {}, np.int32, read)


def test_every_truncation_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.ones((3, 2), np.float32), "b": np.ones(5, np.float32)}, file)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors is cut short"):
            read_header(file)
    file.write_bytes(whole)
    assert read_header(file).keys() == {"a", "b"}


def test_a_file_that_shrinks_meanwhile(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.ones((3, 2), np.float32)}, file)
    info = read_header(file)["a"]
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match="became shorter"):
        info.read()


def raw(header: object) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html>not found</html>" * 9, "its header would have"),
        (raw([1, 2]) + bytes(64), "its header is damaged"),
        (raw({"a": {}}) + bytes(64), "its header is damaged"),
        (
            raw({"a": {"dtype": "F32", "data_offsets": [0, 4]}}) + bytes(8),
            "its header is damaged.*'shape'",
        ),
        (
            raw({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}})
            + bytes(8),
            "its header is damaged.*negative",
        ),
        (
            raw({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}})
            + bytes(8),
            "its header is damaged",
        ),
        (
            raw({"a": {"dtype": "I8", "shape": [4], "data_offsets": [4, 0]}})
            + bytes(8),
            "'a' has -4 bytes",
        ),
        (
            raw({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}})
            + bytes(8),
            "'a' has 4 bytes",
        ),
        (
            raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}})
            + bytes(8),
            "'a' has 4 bytes",
        ),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, expected):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        read_header(tmp_path / "file")


def test_dtypes_that_no_parameter_has_are_kept_apart(tmp_path):
    """A file may hold constants in them; who wants the values is told."""
    entry = {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}
    (tmp_path / "file").write_bytes(raw({"position_ids": entry}) + bytes(16))
    info = read_header(tmp_path / "file")["position_ids"]
    assert (info.dtype, info.stored_as, info.nbytes) == (None, "I64", 16)
    with pytest.raises(ValueError, match="dtype I64, which is not one of"):
        info.read()
