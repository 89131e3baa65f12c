"""What `load` opens and how: folders that are nearly right, dtypes, meshes, steps."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import visor_jax
from tests import tolerances
from tests.checkpoints.saved import load_checkpoint
from tests.data import tiny_llava
from tests.inference import page_run
from visor_jax.checkpoints import stored_network
from visor_jax.convert.__main__ import export_checkpoint, import_checkpoint
from visor_jax.data.pages.processor import PageProcessor
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.sharding.mesh import MeshSettings, make_mesh

GOLDEN = Path(__file__).parents[2] / "checkpoints/hf/golden"
QUESTION = "digit row 2 column 3"
SPLIT = MeshSettings(data=1, fsdp=4, tensor=2)


def dtypes(params):
    return {str(x.dtype) for x in jax.tree.leaves(params)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the golden checkpoint in bfloat16, with a tokenizer."""
    folder = shutil.copytree(GOLDEN, tmp_path_factory.mktemp("hf") / "folder")
    tiny_llava.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def half(folder, tmp_path_factory):
    """Returns a folder in float16, and the workdir of its import."""
    parent = tmp_path_factory.mktemp("half")
    import_checkpoint(str(folder), parent / "bfloat16")
    export_checkpoint(parent / "bfloat16", parent / "hf", dtype="float16")
    import_checkpoint(str(parent / "hf"), parent / "run")
    return parent / "hf", parent / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return page_run.save(tmp_path_factory.mktemp("page"), page_run.parameters())


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", "float32"), ("gpu", "bfloat16")]
)
def test_float16_is_cast_to_what_is_computed_in(half, device, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    for path in half:
        model = visor_jax.load(path)
        assert dtypes(model.params) == {expected}
        assert model.config.compute_dtype == expected
    assert dtypes(load_checkpoint(half[1]).params) == {"float16"}


def test_other_dtypes_are_kept(folder, run):
    model = visor_jax.load(folder)
    assert dtypes(model.params) == {model.config.compute_dtype} == {"bfloat16"}
    model = visor_jax.load(run)
    assert dtypes(model.params) == {model.config.compute_dtype} == {"float32"}


def test_arrays_are_cast_while_they_are_read(run, monkeypatch):
    """What comes from the disk is all there is: no copies, no heads of training."""
    read = []

    def spy(*arguments):
        read.append(read_part(*arguments))
        return read[-1]

    read_part = stored_network.read_part
    monkeypatch.setattr(stored_network, "read_part", spy)
    model = visor_jax.load(run, dtype="bfloat16")
    assert dtypes(read[0]) == {"bfloat16"}
    assert jax.tree.leaves(model.params) == jax.tree.leaves(read[0])
    assert not [name for name in read[0] if "reading" in name]


def test_a_network_split_over_eight_devices_answers_as_on_one(run):
    one = visor_jax.load(run)
    split = visor_jax.load(run, mesh=SPLIT)
    table = split.params["language_model"]["embed_tokens"]["embedding"]
    assert table.addressable_shards[0].data.shape == (64 // 2, 16 // 4)
    jax.tree.map(np.testing.assert_array_equal, split.params, one.params)
    image = page_run.page()
    np.testing.assert_allclose(
        split.logits(image, QUESTION, "all"),
        one.logits(image, QUESTION, "all"),
        **tolerances.REORDERED,
    )
    assert split.generate(image, QUESTION) == one.generate(image, QUESTION)


def test_an_import_is_read_straight_into_the_mesh(folder):
    one = visor_jax.load(folder, dtype="float32")
    # A mesh of jax's own making has axes of another type.
    explicit = jax.make_mesh((1, 4, 2), ("data", "fsdp", "tensor"))
    split = visor_jax.load(folder, dtype="float32", mesh=explicit)
    kernel = split.params["language_model"]["layers_1"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (32 // 4, 40 // 2)
    assert kernel.sharding.mesh == make_mesh(SPLIT)
    jax.tree.map(np.testing.assert_array_equal, split.params, one.params)


def test_meshes_that_do_not_fit(run):
    with pytest.raises(ValueError, match="'batch', 'model'"):
        visor_jax.load(run, mesh=jax.make_mesh((4, 2), ("batch", "model")))
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        visor_jax.load(run, mesh=MeshSettings(data=3))


def test_everything_is_of_the_newest_readable_step(tmp_path, caplog):
    params = page_run.parameters()
    page_run.save(tmp_path, params, step=7, note="older")
    doubled = jax.tree.map(lambda x: 2 * x, params)
    page_run.save(tmp_path, doubled, step=8, note="newer", budgets=["sa0"])
    assert visor_jax.load(tmp_path).metadata["note"] == "newer"
    for file in (tmp_path / "checkpoints/8/params/d").iterdir():
        os.truncate(file, file.stat().st_size // 2)
    model = visor_jax.load(tmp_path)
    assert "checkpoints/7 instead" in caplog.text
    assert (model.metadata["step"], model.metadata["note"]) == (7, "older")
    assert model.budgets.names == page_run.BUDGETS
    for name, part in model.params.items():
        jax.tree.map(np.testing.assert_array_equal, part, params[name])


def test_a_run_that_began_with_nothing_imported(half, tmp_path):
    """Its metadata says so with None; its tokenizer lies beside it."""
    workdir = shutil.copytree(half[1], tmp_path / "run")
    file = workdir / "checkpoints/0/metadata/metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "source": None}))
    model = visor_jax.load(workdir)
    assert isinstance(model.config, VLMConfig)
    assert model.tokenizer.get_vocab() == tiny_llava.tokenizer().get_vocab()


def test_the_data_of_the_run_say_how_it_is_asked(run, half, tmp_path):
    """Whatever the size of the pictures; where nothing is said, the newline tells."""
    decoder = dataclasses.replace(page_run.CONFIG.decoder, vocab_size=320)
    config = page_run.CONFIG.replace(decoder=decoder)
    params = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), parameter_shapes(config)
    )
    kinds = {}
    for kind in ("pages", "conversations"):
        saved = {"model": config.to_dict(), "data": {"kind": kind, "seed": 0}}
        workdir = page_run.save(tmp_path / kind, params, **saved)
        if kind == "conversations":
            tiny_llava.tokenizer().save_pretrained(workdir / "tokenizer")
        kinds[kind] = type(visor_jax.load(workdir).processor.prompts)
    for name, path in (("unsaid", run), ("import", half[1])):
        kinds[name] = type(visor_jax.load(path).processor.prompts)
    assert kinds == {
        "pages": PageProcessor,
        "conversations": ChatProcessor,
        "unsaid": PageProcessor,
        "import": ChatProcessor,
    }


def test_the_home_directory_is_meant(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert visor_jax.load("~/folder").params["image_newline"].dtype == jnp.bfloat16


def _with(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


CONFIG = (GOLDEN / "config.json").read_text()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": CONFIG}, r"model\.safetensors.*download was not finished"),
        ({"config.json": CONFIG[:99]}, r"config\.json is damaged.*download it again"),
        ({"config.json": CONFIG, "pytorch_model.bin": "x"}, "pickled weights only"),
        ({"config.json": CONFIG, "model-1.safetensors": ""}, "was not finished"),
        ({"model.safetensors": ""}, r"has no config\.json"),
        ({"config.json": '{"architectures": ["Bert"]}'}, "a model of another kind"),
        ({"config.json": '{"config": {}, "starts": []}'}, "is not a checkpoint"),
    ],
)
def test_folders_that_are_nearly_right(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        visor_jax.load(_with(tmp_path / "folder", files))
