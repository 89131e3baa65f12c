"""`python -m visor_jax.show.config`: every value of every file in configs is listed."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from configs.common import PRESETS
from configs.easy_vqa import PRESETS as EASY_VQA_PRESETS
from visor_jax.settings import read
from visor_jax.show.config import table, values_of

ROOT = Path(__file__).parents[2]
# Files of `configs` and what may be said after the colon.
ARGUMENTS = {
    "universal": PRESETS,
    "dense": PRESETS,
    "stage_a": PRESETS,
    "stage_b": PRESETS,
    "dedicated": ("none", "sa2:1,5"),
    "easy_vqa": EASY_VQA_PRESETS,
    "policy": ("straight_through", "pseudo_labels,llava_ov_0p5b"),
}


def config_of(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def dotted(config, prefix=""):
    """Returns every name down to what is no dictionary."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_file_is_looked_at():
    files = {file.stem for file in (ROOT / "configs").glob("*.py")} - {"common"}
    assert files == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("name", "argument"),
    [pair for n, each in ARGUMENTS.items() for pair in itertools.product([n], each)],
)
def test_every_value_is_listed_with_a_class_that_is_in_its_file(name, argument):
    config = config_of(name, argument).to_dict()
    values = values_of(config)
    assert [value.name for value in values] == list(dotted(config))
    for value in values:
        source = (ROOT / value.file).read_text()
        assert f"class {value.read_by.__name__}" in source
        # The class takes it, and is asked by that name: a field, annotated.
        field = value.name.rpartition(".")[2]
        if field not in ("init_from_needed", "budget_phases", "tower"):
            assert f"    {field}: " in source, value


def test_the_classes_are_those_that_a_run_is_built_of(monkeypatch):
    built = {}
    real = read.build

    def recorded(sections, where, fields):
        settings = real(sections, where, fields)
        built[where] = type(settings)
        return settings

    monkeypatch.setattr(read, "build", recorded)
    config = config_of("universal", "mini")
    config.optimizer.groups = {"tower": {"pattern": "^vision_tower/"}}
    read.read_settings(config)
    listed = {v.name: v.read_by for v in values_of(config.to_dict())}
    for name, reader in listed.items():
        section = name.rpartition(".")[0]
        if section:
            assert reader is built[section], name
    assert {"data.pages", "optimizer.groups.tower", "model"} <= built.keys()


def test_a_value_that_nothing_reads_is_named():
    config = config_of("universal", "mini").to_dict()
    config["loop"]["stepz"] = 3
    config["surprise"] = {"a": 1}
    with pytest.raises(ValueError, match=r"\['loop\.stepz', 'surprise'\]"):
        values_of(config)
    config["task"] = "sorting"
    with pytest.raises(ValueError, match="task='sorting'"):
        values_of(config)


def test_a_line_says_name_class_file_and_value():
    lines = table(values_of(config_of("policy", "straight_through").to_dict()))
    (line,) = [each for each in lines.splitlines() if "scores.batch_size" in each]
    assert line.split() == [
        *("scores.batch_size", "ScoreSettings"),
        *("visor_jax/policy/score_cache.py", "64"),
    ]


def test_the_command_heeds_overrides_and_needs_no_checkpoint():
    flags = ("--config=configs/stage_a.py", "--config.loop.steps=7")
    started = [sys.executable, "-m", "visor_jax.show.config", *flags]
    done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [each for each in done.stdout.splitlines() if "loop.steps" in each]
    assert line.split()[-1] == "7"
