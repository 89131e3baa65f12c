"""Checkpoints of transformers, in every layout: imported, exported, verified."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tolerances import PARITY
from visor_jax.convert.__main__ import export_checkpoint, import_checkpoint
from visor_jax.convert.verify import verify

pytestmark = pytest.mark.parity
LAYOUTS = ("published", "from_config", "memory", "4.52", "original")


@pytest.fixture(scope="module")
def models():
    """Returns {tied: model}; the side of 60 pixels is no multiple of the patch."""
    from tests.parity import tiny_llava

    return {
        True: tiny_llava.build(side=56, tied=True),
        False: tiny_llava.build(side=60, tied=False),
    }


def pictures(folder, *sizes):
    """Returns the files of random pictures of these (height, width)."""
    from tests.parity import tiny_llava

    files = []
    for height, width in sizes:
        files.append(str(folder / f"{width}x{height}.png"))
        Image.fromarray(tiny_llava.picture(height, width)).save(files[-1])
    return files


# Wide and enlarged; an exact grid; tall; features resized.
SIZES = {True: ((30, 75), (112, 112)), False: ((140, 70), (300, 330))}


@pytest.mark.parametrize("tied", [True, False])
def test_answers_are_those_of_transformers(models, tied, tmp_path):
    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[tied], tmp_path / "hf")
    tiny_llava.save_processing(models[tied], folder)
    import_checkpoint(str(folder), tmp_path / "run")
    compared = verify(
        tmp_path / "run",
        str(folder),
        images=pictures(tmp_path, *SIZES[tied]),
        prompts=("Why?", "Where is it?"),
        max_new_tokens=4,
    )
    # Every image, and all of them together.
    assert len(compared) == 2 * (len(SIZES[tied]) + 1)
    for result in compared:
        assert result.holds(tolerance=PARITY["atol"], max_kl=1e-9), result


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_back_bit_for_bit(models, layout, tied, tmp_path):
    import torch
    from safetensors.numpy import load_file
    from transformers import LlavaOnevisionForConditionalGeneration

    from tests.parity import tiny_llava

    model = models[tied]
    folder = tiny_llava.save(model, tmp_path / "hf", layout)
    import_checkpoint(str(folder), tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "back", max_shard_size="50KB")
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 2
    loaded, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    expected = model.state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    keys = set()
    for file in (tmp_path / "back").glob("model-*.safetensors"):
        keys |= load_file(file).keys()
    assert keys == tiny_llava.state(model, "published").keys()


def test_configuration_comes_back(models, tmp_path):
    from transformers import LlavaOnevisionConfig

    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[True], tmp_path / "hf", dtype="float32")
    import_checkpoint(str(folder), tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "back")
    before, after = (
        LlavaOnevisionConfig.from_pretrained(path).to_dict()
        for path in (folder, tmp_path / "back")
    )
    assert after == before
    text = (tmp_path / "back/config.json").read_text()
    # The base of the rotary angles is spelled twice, for older versions.
    written = json.loads(text)["text_config"]
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 1e6
    # Nothing of this machine.
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_survives(models, name, tmp_path):
    import copy

    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    from tests.parity import tiny_llava

    model = copy.deepcopy(models[True]).to(getattr(torch, name))
    folder = tiny_llava.save(model, tmp_path / "hf")
    import_checkpoint(str(folder), tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "back")
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path / "back", dtype="auto"
    )
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_a_head_stored_beside_the_embeddings(models, tmp_path, caplog):
    """A copy is dropped; another one unties the network, as in transformers."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[True], tmp_path / "hf")
    tiny_llava.save_processing(models[True], folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    table = tensors["language_model.model.embed_tokens.weight"]
    for name, noise in (("copy", 0.0), ("other", 0.05)):
        head = table + noise * torch.randn(table.shape)
        changed = {**tensors, "language_model.lm_head.weight": head}
        save_file(changed, file, metadata={"format": "pt"})
        with caplog.at_level(logging.WARNING):
            step = import_checkpoint(str(folder), tmp_path / name)
        metadata = json.loads((step / "metadata/metadata").read_text())
        assert metadata["model"]["decoder"]["tie_embeddings"] is (name == "copy")
    export_checkpoint(tmp_path / "other", tmp_path / "back")
    (result,) = verify(
        tmp_path / "other",
        str(tmp_path / "back"),
        images=pictures(tmp_path, (60, 60)),
        max_new_tokens=1,
    )
    assert result.holds(tolerance=PARITY["atol"], max_kl=1e-9), result


def test_verify_sees_a_difference(models, tmp_path):
    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[True], tmp_path / "hf")
    tiny_llava.save_processing(models[True], folder)
    other = tiny_llava.save(
        tiny_llava.build(side=56, tied=True, seed=1), tmp_path / "other"
    )
    import_checkpoint(str(folder), tmp_path / "run")
    (result,) = verify(
        tmp_path / "run",
        str(other),
        images=pictures(tmp_path, (60, 60)),
        max_new_tokens=1,
    )
    assert not result.holds(tolerance=1e-3, max_kl=1e-5)
    assert np.isfinite(result.max_abs)


def test_visor_networks_are_refused(models, tmp_path):
    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[True], tmp_path / "hf")
    plan = {"cross": (0,), "self_": (1,)}
    import_checkpoint(str(folder), tmp_path / "visor", plan=plan)
    with pytest.raises(ValueError, match="is a VISOR network"):
        verify(tmp_path / "visor", str(folder))


def test_command(models, tmp_path):
    from tests.parity import tiny_llava

    folder = tiny_llava.save(models[True], tmp_path / "hf")
    tiny_llava.save_processing(models[True], folder)
    import_checkpoint(str(folder), tmp_path / "run")

    def run(*flags):
        command = (
            "-m",
            "visor_jax.convert.verify",
            f"--checkpoint={tmp_path / 'run'}",
            *flags,
        )
        return subprocess.run(
            [sys.executable, *command, "--max_new_tokens=2"],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    done = run(f"--reference={folder}")
    assert done.returncode == 0, done.stderr
    assert [line[:7] for line in done.stdout.splitlines()] == ["agree  "] * 3
    done = run(f"--reference={folder}", "--tolerance=0")
    assert done.returncode == 1
    assert done.stdout.count("DIFFER") == 3
    done = run("--reference=nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 'nowhere' does not exist")
