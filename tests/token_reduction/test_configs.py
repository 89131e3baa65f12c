"""The configurations of methods that are trained: what they build and what learns."""

import importlib
import importlib.util
from pathlib import Path

import flax.traverse_util
import pytest

from tests.token_reduction.test_trained import TRAINED
from visor_jax.commands.sibling_imports import neighbours_of
from visor_jax.settings.read import read_settings
from visor_jax.show.config import values_of
from visor_jax.tasks.trained_parameters import trained_shapes
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training.parameter_groups import group_of_paths

FOLDER = Path(__file__).parents[2] / "configs/token_reduction"
FILES = {
    "visor_tr": "visor_tr_packing:newlines=drop,grid=12",
    "ldpv2": "ldpv2:newlines=drop,grid=12,tokens=6",
    "m3": "m3:newlines=drop,grid=12,tokens=12,scales=12+6+3+1",
    "visionzip": "visionzip",
}


def config_of(name, preset):
    module = importlib.import_module(f"configs.token_reduction.{name}")
    config = module.get_config(preset)
    config.init_from = "runs/somewhere"
    return config


def test_there_is_one_for_every_method_that_is_trained():
    assert {file.stem for file in FOLDER.glob("*.py")} == set(FILES)
    assert {each.partition(":")[0] for each in FILES.values()} == set(TRAINED)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_a_run_of_the_method(name):
    config = config_of(name, "mini")
    run = read_settings(config, data_needed=False)
    assert run.model.trained_with == FILES[name]
    assert as_trained(run.model).reducer.image_lengths(144, 1)[0] <= 144
    assert run.label == f"stage:{name}"
    assert run.tower.steps == 0
    assert "model.reduce" in {value.name for value in values_of(config.to_dict())}
    trained = flax.traverse_util.flatten_dict(trained_shapes(run), sep="/")
    parts = {path.partition("/")[0] for path in trained}
    assert ("token_compressor" in parts) == (name in ("visor_tr", "ldpv2"))
    assert (parts == {"multi_modal_projector"}) == (name == "visionzip")


def test_without_a_checkpoint_a_run_is_refused():
    config = config_of("m3", "mini")
    config.init_from = None
    with pytest.raises(ValueError, match="begins with a checkpoint"):
        read_settings(config, data_needed=False)
    config = config_of("m3", "mini")
    config.model.reduce = "sparsevlm"
    with pytest.raises(ValueError, match="goes by the question"):
        read_settings(config, data_needed=False)


def test_published_sizes_have_a_group_for_new_parameters():
    run = read_settings(config_of("ldpv2", "llava_ov_0p5b"), data_needed=False)
    assert run.model.trained_with == "ldpv2:grid=27,tokens=14"
    # Parameters are called alike at every size.
    mini = read_settings(config_of("ldpv2", "mini"), data_needed=False)
    found = group_of_paths(trained_shapes(mini), run.optimizer.groups)
    own = {path for path, group in found.items() if group == "compressor"}
    assert own == {"token_compressor/kernel", "token_compressor/bias"}


def test_a_file_finds_its_neighbours_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = FOLDER / "m3.py"
    with neighbours_of(file):
        spec = importlib.util.spec_from_file_location("m3", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert Path(module.common.__file__) == FOLDER.parent / "common.py"
