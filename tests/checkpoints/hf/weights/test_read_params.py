"""Names are matched completely, tensors land where they belong."""

import ctypes
import gc
import re
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from visor_jax.checkpoints.hf import read_config
from visor_jax.checkpoints.hf.keys.key_layouts import (
    canonical,
    canonical_keys,
    published,
)
from visor_jax.checkpoints.hf.keys.key_map import LINEAR, to_ours, to_theirs
from visor_jax.checkpoints.hf.keys.llava_onevision import LLAVA_ONEVISION
from visor_jax.checkpoints.hf.weights.read_params import (
    Source,
    is_tied,
    match,
    read_params,
)
from visor_jax.checkpoints.hf.weights.safetensors_file import read_header
from visor_jax.models.parameters import parameter_shapes
from visor_jax.sharding.mesh import MeshSettings, make_mesh
from visor_jax.sharding.param_rules import param_shardings

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = GOLDEN / "model.safetensors"
HEAD = "language_model.lm_head.weight"
TABLE = "language_model.model.embed_tokens.weight"

# The same six parameters in every spelling; the first column is the canonical one.
SPELLINGS = """
canonical vision_tower.encoder.layers.0.mlp.fc1.bias multi_modal_projector.linear_1.bias image_newline language_model.layers.11.mlp.up_proj.weight language_model.norm.weight lm_head.weight
published vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias multi_modal_projector.linear_1.bias image_newline language_model.model.layers.11.mlp.up_proj.weight language_model.model.norm.weight language_model.lm_head.weight
from_config vision_tower.encoder.layers.0.mlp.fc1.bias multi_modal_projector.linear_1.bias image_newline language_model.model.layers.11.mlp.up_proj.weight language_model.model.norm.weight language_model.lm_head.weight
4.52 model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias model.multi_modal_projector.linear_1.bias model.image_newline model.language_model.layers.11.mlp.up_proj.weight model.language_model.norm.weight lm_head.weight
memory model.vision_tower.encoder.layers.0.mlp.fc1.bias model.multi_modal_projector.linear_1.bias model.image_newline model.language_model.layers.11.mlp.up_proj.weight model.language_model.norm.weight lm_head.weight
original model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias model.mm_projector.0.bias model.image_newline model.layers.11.mlp.up_proj.weight model.norm.weight lm_head.weight
"""  # noqa: E501
TABLE_OF_SPELLINGS = {
    name: keys for name, *keys in map(str.split, SPELLINGS.strip().splitlines())
}


@pytest.fixture(scope="module")
def config():
    return read_config.to_vlm_config(read_config.read_config_json(GOLDEN))


@pytest.fixture(scope="module")
def shapes(config):
    return parameter_shapes(config)


@pytest.mark.parametrize("spelling", TABLE_OF_SPELLINGS)
def test_every_spelling_leads_to_the_canonical_one(spelling):
    found = [canonical(key) for key in TABLE_OF_SPELLINGS[spelling]]
    assert found == TABLE_OF_SPELLINGS["canonical"]
    assert [published(key) for key in found] == TABLE_OF_SPELLINGS["published"]


def test_the_map_takes_every_key_of_transformers_and_reaches_every_parameter(shapes):
    paths = flax.traverse_util.flatten_dict(shapes, sep="/")
    reached = {}
    for key, tensor in load_file(FILE).items():
        assert published(canonical(key)) == key
        target = to_ours(canonical(key), LLAVA_ONEVISION)
        assert target.transform.apply(tensor).shape == paths[target.name].shape
        back = to_theirs(target.name, LLAVA_ONEVISION)
        assert (published(back.name), back.transform) == (key, target.transform)
        array = target.transform.apply(tensor)
        np.testing.assert_array_equal(target.transform.invert(array), tensor)
        reached[target.name] = key
    assert reached.keys() == paths.keys()


def test_constants_are_left_out_and_doubles_refused():
    keys = ["a.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert canonical_keys([*keys, "model.norm.weight"]) == {
        "language_model.norm.weight": "model.norm.weight"
    }
    with pytest.raises(ValueError, match=r"image_newline and model\.image_newline"):
        canonical_keys(["image_newline", "model.image_newline"])


def test_every_wrong_key_is_in_one_error(shapes, tmp_path):
    tensors = load_file(FILE)
    lacking = sorted(tensors)[:50]
    changed = {key: value for key, value in tensors.items() if key not in lacking}
    changed["language_model.model.layers.0.strange"] = np.ones(3, np.float32)
    changed["visual.norm"] = np.ones(2, np.float32)
    kernel = "multi_modal_projector.linear_1.weight"
    if kernel in lacking:
        lacking.remove(kernel)
    changed[kernel] = np.ascontiguousarray(tensors[kernel][:, :-1])
    save_file(changed, tmp_path / "file")
    with pytest.raises(ValueError, match="do not fit the network") as error:
        match(
            read_header(tmp_path / "file"), {}, shapes, keys=LLAVA_ONEVISION, tied=True
        )
    text = str(error.value)
    assert f"missing in the files ({len(lacking)})" in text
    for key in lacking:
        assert f"\n    {key} {tuple(tensors[key].shape)}" in text
    assert "unexpected in the files (2)" in text
    assert "layers.0.strange (3,)" in text
    assert "visual.norm (2,)" in text
    assert f"{kernel} is (32, 15), not (32, 16)" in text


def test_constants_may_have_any_dtype_and_parameters_may_not(shapes, tmp_path):
    tensors = load_file(FILE)
    constant = "vision_tower.vision_model.embeddings.position_ids"
    tensors[constant] = np.arange(16, dtype=np.int64)[None]
    save_file(tensors, tmp_path / "file")
    sources = match(
        read_header(tmp_path / "file"), {}, shapes, keys=LLAVA_ONEVISION, tied=True
    )
    assert len(sources) == len(tensors) - 1
    quantised = ["image_newline", TABLE]
    for key in quantised:
        tensors[key] = tensors[key].astype(np.int8)
    save_file(tensors, tmp_path / "file")
    weights = read_header(tmp_path / "file")
    assert is_tied(weights, configured=True)
    with pytest.raises(ValueError, match="use the original checkpoint") as error:
        match(weights, {}, shapes, keys=LLAVA_ONEVISION, tied=True)
    assert [key for key in tensors if f"    {key} is I8" in str(error.value)] == (
        [key for key in tensors if key in quantised]
    )


def test_the_head_follows_content(tmp_path, caplog):
    tensors = load_file(FILE)
    weights = read_header(FILE)
    assert is_tied(weights, configured=True)
    assert not is_tied(weights, configured=False)
    for difference in (0, 1):
        head = tensors[TABLE].copy()
        head[3, 4] += difference
        save_file({**tensors, HEAD: head}, tmp_path / "file")
        weights = read_header(tmp_path / "file")
        assert is_tied(weights, configured=True) is (difference == 0)
        assert not is_tied(weights, configured=False)
        assert (HEAD in caplog.text) is (difference == 1)


def test_an_untied_network_needs_its_head(config):
    untied = config.replace(
        decoder=type(config.decoder)(
            **{**vars(config.decoder), "tie_embeddings": False}
        )
    )
    expected = re.escape(f"missing in the files (1):\n    {HEAD} (264, 32)")
    with pytest.raises(ValueError, match=expected):
        match(
            read_header(FILE),
            {},
            parameter_shapes(untied),
            keys=LLAVA_ONEVISION,
            tied=False,
        )


def test_arrays_are_split_and_cast_as_asked(shapes):
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))
    expected = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=s),
        shapes,
        param_shardings(shapes, mesh),
    )
    sources = match(read_header(FILE), {}, shapes, keys=LLAVA_ONEVISION, tied=True)
    params = read_params(sources, expected)
    shardings = jax.tree.map(lambda x: x.sharding, params)
    assert shardings == jax.tree.map(lambda x: x.sharding, expected)
    tensors = load_file(FILE)
    kernel = params["language_model"]["layers_1"]["mlp"]["up_proj"]["kernel"]
    assert kernel.dtype == jnp.float32
    assert kernel.addressable_shards[0].data.shape == (32 // 4, 40 // 2)
    np.testing.assert_array_equal(
        kernel,
        tensors["language_model.model.layers.1.mlp.up_proj.weight"].T.astype("f4"),
    )
    patch = params["vision_tower"]["embeddings"]["patch_embedding"]["kernel"]
    theirs = tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"]
    assert patch[3, 5, 1, 7] == theirs[7, 1, 3, 5].astype("f4")


def test_rows_of_a_tensor_are_read_alone(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    save_file({"x": values, "y": values + 1}, tmp_path / "model.safetensors")
    info = read_header(tmp_path / "model.safetensors")["y"]
    np.testing.assert_array_equal(info.read(), values + 1)
    np.testing.assert_array_equal(info.read(slice(1, 3)), values[1:3] + 1)
    np.testing.assert_array_equal(info.read(slice(3, None)), values[3:] + 1)


# Four files of two tensors of 8 MB.
FILES, SIDE = 4, 1448


def _sources_in_files(folder):
    sources = {}
    for number in range(FILES):
        values = np.full((SIDE, SIDE), number, np.float32)
        pair = {f"w{number}_{i}": values + i / 2 for i in range(2)}
        save_file(pair, folder / f"{number}.safetensors")
        for name, info in read_header(folder / f"{number}.safetensors").items():
            sources[name] = Source(info, LINEAR)
    return sources


def _peak_above(before):
    """Returns the bytes that this process had at most since `before`, above it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return 1024 * peak - before


def _memory_now():
    # What this process has freed and kept would hide what is taken next.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_above(0)


def _read_all_at_once(sources, expected):
    arrays = {name: source.info.read().T for name, source in sources.items()}
    return {
        name: jax.device_put(x, expected[name].sharding) for name, x in arrays.items()
    }


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's to tell"
)
def test_no_more_than_a_file_is_in_memory_above_the_parameters(tmp_path):
    sources = _sources_in_files(tmp_path)
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))
    split = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
    leaf = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32, sharding=split)
    expected = dict.fromkeys(sources, leaf)
    own, file = 4 * SIDE**2 * len(sources), 2 * 4 * SIDE**2
    peaks = []
    for read in (read_params, _read_all_at_once):
        before = _memory_now()
        params = read(sources, expected)
        jax.block_until_ready(params)
        peaks.append(_peak_above(before))
        assert params["w3_1"].addressable_shards[0].data.shape == (SIDE // 4, SIDE // 2)
        assert float(params["w3_1"][5, 7]) == 3.5
        del params
        gc.collect()
    assert peaks[0] < own + file
    # What it is not: whole arrays first, then their shards.
    assert peaks[1] > own + file
