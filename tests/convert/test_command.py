"""Import and export of a stored tiny checkpoint, without PyTorch.

tests/checkpoints/hf/golden holds it, with what transformers answered
(tests/parity/make_golden.py).
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import tiny
from tests.checkpoints.hf import golden_prompt
from tests.checkpoints.saved import load_checkpoint
from tests.tolerances import EXACT, PARITY
from visor_jax.budget import Budget
from visor_jax.checkpoints import workdir_files
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.convert.__main__ import export_checkpoint, import_checkpoint
from visor_jax.inference.generation.generate import generate
from visor_jax.layer_plan import READ, LayerPlan
from visor_jax.models.adapters import with_adapters
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vlm import VLM
from visor_jax.sharding.mesh import MeshSettings, make_mesh
from visor_jax.sharding.param_rules import param_shardings
from visor_jax.training.warm_start import warm_start

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/checkpoints/hf/golden"
# The golden decoder has two layers.
VISOR = {"cross": (0,), "self_": (1,)}
STEP = {"step": np.int32(1)}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "expected.npz")


@pytest.fixture(scope="module")
def batch(golden):
    return golden_prompt.batch(golden["image"])


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Returns the workdir of the golden checkpoint, imported as it is."""
    workdir = tmp_path_factory.mktemp("dense") / "run"
    import_checkpoint(str(GOLDEN), workdir)
    return workdir


@pytest.fixture(scope="module")
def visor(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("visor") / "run"
    import_checkpoint(str(GOLDEN), workdir, plan=VISOR, dtype="float32")
    return workdir


def network(workdir):
    """Returns (network in float32, its parameters in float32, metadata)."""
    loaded = load_checkpoint(workdir)
    config = VLMConfig.from_dict(loaded.metadata["model"])
    config = config.replace(compute_dtype="float32")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), loaded.params)
    return VLM(config), params, loaded.metadata


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def logits_of(params, batch, *, model, gates):
    return model.apply({"params": params}, batch, gates).logits


def test_golden_answers(dense, golden, batch):
    model, params, metadata = network(dense)
    logits = logits_of(params, batch, model=model, gates=(True, True))[0]
    found = np.asarray(logits)[batch.text_mask[0]]
    np.testing.assert_allclose(found, golden["logits"], **PARITY)
    expected = golden["greedy"]
    budget = Budget.all(model.config.plan)
    limits = {"max_new_tokens": len(expected), "eos_id": -1, "pad_id": 0}
    tokens = generate(model, params, batch, budget, **limits)
    np.testing.assert_array_equal(tokens[0], expected)
    assert metadata["budgets"] == ["sa2:0,1"]
    assert metadata["new_parameters"] == []
    assert metadata["step"] == 0


def test_stored_dtype_is_kept_and_says_how_to_compute(dense):
    loaded = load_checkpoint(dense)
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {jnp.dtype("bfloat16")}
    assert loaded.metadata["model"]["compute_dtype"] == "bfloat16"
    assert loaded.metadata["source"]["dtype"] == "bfloat16"


def test_new_adapters_change_nothing(visor, batch):
    """The same plan without adapters, TEXT where it says CROSS, gives the same bits."""
    model, params, metadata = network(visor)
    new = metadata["new_parameters"]
    assert new
    assert all("layers_0/cross_attention/" in path for path in new)
    assert metadata["budgets"] == ["sa0", "sa1:1"]
    plain = model.config.replace(plan=LayerPlan.build(2, self_=(1,)))
    kept = flax.traverse_util.flatten_dict(params, sep="/")
    assert set(new) <= kept.keys()
    kept = {path: x for path, x in kept.items() if path not in new}
    kept = flax.traverse_util.unflatten_dict(kept, sep="/")
    np.testing.assert_allclose(
        logits_of(params, batch, model=model, gates=(True,)),
        logits_of(kept, batch, model=VLM(plain), gates=(True,)),
        **EXACT,
    )


def test_adapters_start_as_their_layers_own_attention(visor, batch, tmp_path):
    """...and change nothing yet, but can learn: the output's gradient is not zero."""
    how = {"plan": VISOR, "dtype": "float32", "adapter_init": "own"}
    import_checkpoint(str(GOLDEN), tmp_path / "run", **how)
    model, params, metadata = network(tmp_path / "run")
    layer = params["language_model"]["layers_0"]
    adapter, own = layer["cross_attention"], layer["self_attn"]
    for name in ("q_proj", "k_proj", "v_proj"):
        jax.tree.map(np.testing.assert_array_equal, adapter[name], own[name])
        assert np.abs(adapter[name]["bias"]).max() > 0
    for name in ("text_norm", "image_norm"):
        norm = layer["input_layernorm"]
        jax.tree.map(np.testing.assert_array_equal, adapter[name], norm)
    names = [path.split("/cross_attention/")[1] for path in metadata["new_parameters"]]
    assert names == ["o_proj/kernel", "position_conv"]
    plain, kept, _ = network(visor)
    found = logits_of(params, batch, model=model, gates=(True,))
    expected = logits_of(kept, batch, model=plain, gates=(True,))
    np.testing.assert_allclose(found, expected, **EXACT)

    def loss(kernel):
        params["language_model"]["layers_0"]["cross_attention"]["o_proj"] = kernel
        logits = model.apply({"params": params}, tiny.on_device(batch), (True,)).logits
        return jnp.sum(logits[..., 7])

    (gradient,) = jax.tree.leaves(jax.jit(jax.grad(loss))(adapter["o_proj"]))
    assert np.abs(gradient).max() > 1e-3


def test_training_begins_with_adapters_like_their_layers(dense):
    """As an import would make them; each an array of its own, so that it can train."""
    _, params, metadata = network(dense)
    config = VLMConfig.from_dict(metadata["model"]).replace(
        plan=LayerPlan.build(2, cross=(0,), self_=(1,))
    )
    config = with_adapters(config, "decoder", "own")
    shapes = parameter_shapes(config)
    given = warm_start(str(dense), config, shapes, adapter_init="own")
    layer = given["language_model"]["layers_0"]
    adapter = layer["cross_attention"]
    assert set(adapter) == {"q_proj", "k_proj", "v_proj", "text_norm", "image_norm"}
    own = params["language_model"]["layers_0"]["self_attn"]
    jax.tree.map(np.testing.assert_array_equal, adapter["q_proj"], own["q_proj"])
    copied, source = adapter["q_proj"]["kernel"], layer["self_attn"]["q_proj"]["kernel"]
    assert copied.unsafe_buffer_pointer() != source.unsafe_buffer_pointer()
    lacking = warm_start(str(dense), config, shapes)["language_model"]["layers_0"]
    assert "cross_attention" not in lacking


def test_text_alone_is_answered_as_by_the_dense_network(dense, visor, batch):
    blind = dataclasses.replace(batch, image_mask=np.zeros_like(batch.image_mask))
    model, params, _ = network(visor)
    found = logits_of(params, blind, model=model, gates=(True,))
    model, params, _ = network(dense)
    expected = logits_of(params, blind, model=model, gates=(True, True))
    valid = batch.text_mask
    np.testing.assert_allclose(found[valid], expected[valid], **PARITY)


def test_a_visor_network_comes_back_from_its_export(visor, tmp_path):
    files = export_checkpoint(visor, tmp_path / "hf")
    assert {"visor.safetensors", "visor_config.json", "README.md"} <= set(files)
    added = load_file(tmp_path / "hf/visor.safetensors")
    assert all("cross_attention" in key for key in added)
    original = load_file(GOLDEN / "model.safetensors")
    exported = load_file(tmp_path / "hf/model.safetensors")
    assert exported.keys() == original.keys()
    for key, tensor in original.items():
        np.testing.assert_array_equal(exported[key], tensor.astype(np.float32))
    card = (tmp_path / "hf/README.md").read_text()
    assert "| CROSS | 0 |" in card
    import_checkpoint(str(tmp_path / "hf"), tmp_path / "again")
    before, after = load_checkpoint(visor), load_checkpoint(tmp_path / "again")
    assert after.metadata["model"] == before.metadata["model"]
    assert after.metadata["new_parameters"] == []
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


def test_a_dense_network_reads_without_training(golden, batch, tmp_path):
    """The weights stay as they are, there and back; budgets come along."""
    import_checkpoint(str(GOLDEN), tmp_path / "run", plan="read")
    model, params, metadata = network(tmp_path / "run")
    names = ["sa2:0,1", "sa1:0+rd1:1", "sa0+rd2:0,1"]
    assert metadata["budgets"] == names
    assert metadata["new_parameters"] == []
    # The last layer's image is read by nobody: to read there is to be on.
    for name in names[:2]:
        gates = Budget.of_name(name).gates(model.config.plan)
        logits = logits_of(params, batch, model=model, gates=gates)[0]
        found = np.asarray(logits)[batch.text_mask[0]]
        np.testing.assert_allclose(found, golden["logits"], **PARITY)
    frozen = logits_of(params, batch, model=model, gates=(READ, READ))[0]
    assert np.abs(frozen - logits).max() > 1e-2
    export_checkpoint(tmp_path / "run", tmp_path / "hf")
    original = load_file(GOLDEN / "model.safetensors")
    exported = load_file(tmp_path / "hf/model.safetensors")
    assert exported.keys() == original.keys()
    for key, tensor in original.items():
        np.testing.assert_array_equal(exported[key], tensor)
    import_checkpoint(str(tmp_path / "hf"), tmp_path / "again")
    assert load_checkpoint(tmp_path / "again").metadata["budgets"] == names


def saved(workdir, params, metadata, *steps, **changes):
    """Returns the workdir, which now holds checkpoints of these steps."""
    with CheckpointManager(workdir, save_every=1) as manager:
        for step in steps:
            manager.save(
                step,
                params=jax.tree.map(lambda x, step=step: x + step, params),
                optimizer=STEP,
                data_iterator=None,
                metadata={**metadata, **changes},
            )
    return workdir


@pytest.mark.parametrize("plan", [VISOR, {"self_": (1,)}, {"self_": (0, 1)}])
@pytest.mark.parametrize("budgets", [["sa1:1"], ["sa1:1", "sa0"]])
def test_plan_and_budgets_come_back_from_the_export(visor, plan, budgets, tmp_path):
    """Also without CROSS layers, of which nothing but the description tells."""
    _, params, metadata = network(visor)
    if "cross" not in plan:
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        flat = {path: x for path, x in flat.items() if "cross_attention" not in path}
        params = flax.traverse_util.unflatten_dict(flat, sep="/")
    config = VLMConfig.from_dict(metadata["model"]).replace(
        plan=LayerPlan.build(2, **plan)
    )
    changes = {"model": config.to_dict(), "budgets": budgets}
    saved(tmp_path / "run", params, metadata, 1, **changes)
    files = export_checkpoint(tmp_path / "run", tmp_path / "hf")
    card = (tmp_path / "hf/README.md").read_text()
    assert ("visor.safetensors" in files) == ("cross" in plan)
    assert ("visor.safetensors" in card) == ("cross" in plan)
    assert f"Budgets it was trained for: {', '.join(budgets)}." in card
    import_checkpoint(str(tmp_path / "hf"), tmp_path / "again")
    before, after = (load_checkpoint(tmp_path / name) for name in ("run", "again"))
    assert after.metadata["model"] == before.metadata["model"]
    assert after.metadata["budgets"] == budgets
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    # Another plan makes another network, for which nothing was trained.
    import_checkpoint(str(tmp_path / "hf"), tmp_path / "dense", plan="dense")
    assert load_checkpoint(tmp_path / "dense").metadata["budgets"] == ["sa2:0,1"]


def test_a_dense_network_is_exported_as_an_ordinary_one(dense, tmp_path):
    files = export_checkpoint(dense, tmp_path / "hf")
    assert files == ["model.safetensors", "README.md", "config.json"]
    assert "VISOR" not in (tmp_path / "hf/README.md").read_text()


def test_an_export_that_is_not_whole_is_not_imported(visor, tmp_path):
    """Adapters that were trained are never made new in silence."""
    export_checkpoint(visor, tmp_path / "hf")
    stored = load_file(tmp_path / "hf/visor.safetensors")
    (tmp_path / "hf/visor.safetensors").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match="do not fit the network") as error:
        import_checkpoint(str(tmp_path / "hf"), tmp_path / "run")
    assert f"missing in visor.safetensors ({len(stored)})" in str(error.value)
    for key, tensor in stored.items():
        assert f"\n    {key} {tensor.shape}" in str(error.value)
    assert not (tmp_path / "run").exists()
    (tmp_path / "kept").rename(tmp_path / "hf/visor.safetensors")
    (tmp_path / "hf/visor_config.json").unlink()
    with pytest.raises(ValueError, match=r"visor_config\.json: the download was not"):
        import_checkpoint(str(tmp_path / "hf"), tmp_path / "run")


def test_a_damaged_newest_step_gives_way_everywhere(dense, tmp_path, caplog):
    _, params, metadata = network(dense)
    run = saved(tmp_path / "run", params, metadata, 1, 2)
    for file in (run / "checkpoints/2/params/d").iterdir():
        os.truncate(file, file.stat().st_size // 2)
    files = export_checkpoint(run, tmp_path / "hf", max_shard_size="40KB")
    # Nothing of the export that failed is left.
    assert sorted(files) == sorted(p.name for p in (tmp_path / "hf").iterdir())
    key = "image_newline"
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    found = load_file(tmp_path / "hf" / index["weight_map"][key])[key]
    np.testing.assert_array_equal(found, params[key] + 1)
    config = VLMConfig.from_dict(metadata["model"])
    given = warm_start(str(run), config, parameter_shapes(config))
    np.testing.assert_array_equal(given[key], params[key] + 1)
    assert caplog.text.count("checkpoints/1 instead") == 2


def test_stored_constants_do_not_change_the_dtype(tmp_path):
    """Old files hold positions as integers and frequencies as float32."""
    folder = shutil.copytree(GOLDEN, tmp_path / "hf")
    tensors = load_file(GOLDEN / "model.safetensors")
    tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(16)[None]
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors[name] = np.ones(4, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    import_checkpoint(str(folder), tmp_path / "run")
    source = load_checkpoint(tmp_path / "run").metadata["source"]
    assert source["dtype"] == "bfloat16"


def test_files_beside_the_weights_are_there_before_them(tmp_path, monkeypatch, caplog):
    """A workdir is a checkpoint as soon as its step is there."""
    folder = shutil.copytree(GOLDEN, tmp_path / "hf")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workdir_files, "write_step_0", killed)
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(KeyboardInterrupt):
            import_checkpoint(str(folder), tmp_path / "run")
    assert (tmp_path / "run/tokenizer/tokenizer.json").exists()
    assert "tokenizer" not in caplog.text
    (folder / "tokenizer.json").unlink()
    import_checkpoint(str(folder), tmp_path / "other")
    assert "has no tokenizer.json: what is imported cannot answer" in caplog.text


def test_paths_on_other_machines_are_refused(dense):
    with pytest.raises(ValueError, match=r"gs://b/hf is not on this machine"):
        export_checkpoint(dense, "gs://b/hf")
    with pytest.raises(ValueError, match=r"gs://b/hf is not on this machine"):
        import_checkpoint("gs://b/hf", "run")
    assert not Path("gs:").exists()


def test_a_trained_run_on_eight_devices_is_exported(dense, tmp_path):
    _, params, metadata = network(dense)
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))
    shifted = jax.tree.map(lambda x: x + 1, params)
    split = jax.device_put(shifted, param_shardings(shifted, mesh))
    assert len(split["image_newline"].devices()) == 8
    with CheckpointManager(tmp_path / "run", save_every=1) as manager:
        manager.save(
            5, params=split, optimizer=STEP, data_iterator=None, metadata=metadata
        )
    files = export_checkpoint(tmp_path / "run", tmp_path / "hf", max_shard_size="40KB")
    shards = [file for file in files if file.startswith("model-")]
    assert len(shards) > 2
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    total = 0
    for name, tensor in load_file(GOLDEN / "model.safetensors").items():
        found = load_file(tmp_path / "hf" / index["weight_map"][name])[name]
        np.testing.assert_array_equal(found, tensor.astype(np.float32) + 1)
        total += found.nbytes
    assert index["metadata"]["total_size"] == total
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == (
        "float32"
    )


def test_training_begins_with_the_imported_weights(dense):
    """A dense checkpoint becomes a VISOR network: float32, split, adapters left new."""
    _, params, metadata = network(dense)
    config = VLMConfig.from_dict(metadata["model"]).replace(
        plan=LayerPlan.build(2, cross=(0,), self_=(1,)), remat="layer"
    )
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))
    shapes = parameter_shapes(config)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        param_shardings(shapes, mesh),
    )
    given = warm_start(str(dense), config, abstract)
    jax.tree.map(np.testing.assert_array_equal, given, params)
    table = given["language_model"]["embed_tokens"]["embedding"]
    assert len(table.sharding.device_set) == 8
    decoder = dataclasses.replace(config.decoder, rope_theta=1e4)
    with pytest.raises(ValueError, match=r"rope_theta: 1000000.0 there, 10000.0 here"):
        warm_start(str(dense), config.replace(decoder=decoder), abstract)


def test_processing_files_come_along(tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(GOLDEN, folder)
    texts = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ m }}",
        "preprocessor_config.json": '{"size": 56}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "modeling.py").write_text("raise SystemExit")
    import_checkpoint(str(folder), tmp_path / "run")
    there = {p.name: p.read_text() for p in (tmp_path / "run/tokenizer").iterdir()}
    assert there == texts
    export_checkpoint(tmp_path / "run", tmp_path / "back")
    for name, text in texts.items():
        assert (tmp_path / "back" / name).read_text() == text
    assert not (tmp_path / "back/modeling.py").exists()


def test_what_is_in_the_way_is_not_overwritten(dense, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        import_checkpoint(str(GOLDEN), tmp_path)
    with pytest.raises(ValueError, match="is not empty"):
        export_checkpoint(dense, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        export_checkpoint(dense, tmp_path / "note.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    "extra", [("grid_embedding", True), ("projector_convolution", 3)]
)
def test_only_networks_with_a_place_in_transformers_are_exported(
    dense, tmp_path, extra
):
    _, params, metadata = network(dense)
    metadata["model"] = {**metadata["model"], extra[0]: extra[1]}
    with CheckpointManager(tmp_path / "run", save_every=1) as manager:
        manager.save(
            1, params=params, optimizer=STEP, data_iterator=None, metadata=metadata
        )
    message = rf"This network is no LLaVA-OneVision.*{extra[0]}={extra[1]}"
    with pytest.raises(ValueError, match=message):
        export_checkpoint(tmp_path / "run", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_plans_for_few_layers_are_named(tmp_path):
    with pytest.raises(ValueError, match="no VISOR plan for 2 layers"):
        import_checkpoint(str(GOLDEN), tmp_path / "run", plan="visor")
    with pytest.raises(ValueError, match=r"SELF layers \[2\] are not in 0..1"):
        import_checkpoint(
            str(GOLDEN), tmp_path / "run", plan={"cross": (0,), "self_": (2,)}
        )
    assert not (tmp_path / "run").exists()


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"visor_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_command(tmp_path):
    out = tmp_path / "run"
    layers = ("--plan=visor", "--cross_layers=0", "--self_layers=1")
    done = command("convert", f"--from_hf={GOLDEN}", f"--out={out}", *layers)
    assert (done.returncode, done.stdout) == (
        0,
        f"imported {GOLDEN}: {out}/checkpoints/0\n",
    )
    first, second = done.stderr.splitlines()
    assert first == "7 new parameters: the adapters of CROSS layers"
    assert "has no tokenizer.json" in second
    assert load_checkpoint(out).metadata["new_parameters"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--from_hf=a", "--to_hf=b"), "Give --from_hf and --out to import, or"),
        (("--from_hf=nowhere", "--out=run"), "'nowhere' does not exist"),
        (
            ("--from_hf=a", "--out=b", "--adapter_init=own"),
            "--adapter_init would change nothing without --plan=visor",
        ),
        (
            ("--from_hf=a", "--out=b", "--plan=read", "--cross_layers=1"),
            "without --plan",
        ),
        (
            ("--from_hf=a", "--out=b", "--plan=visor", "--cross_layers=0,3"),
            "--cross_layers and --self_layers belong together: give both, or neither",
        ),
        (("--checkpoint=a", "--to_hf=b", "--plan=visor"), "--plan would change noth"),
        (("--from_hf=a", "--out=b", "--max_shard_size=1GB"), "nothing without --to_hf"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, expected, tmp_path):
    done = command("convert", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
