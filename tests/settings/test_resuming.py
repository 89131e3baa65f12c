"""A run that moves or logs otherwise goes on; another run is another run."""

import dataclasses
import importlib
import logging

import pytest

from configs import dense, universal
from tests.show.test_config import ARGUMENTS, dotted
from visor_jax import train
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.variants import variant
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings.resuming import (
    CHANGE_NOTHING,
    CHANGE_ROUNDING,
    describe_changes,
    may_change,
)
from visor_jax.settings.sections import SECTIONS
from visor_jax.training import run_record

# Every other value of a configuration: it says what is computed. Whoever adds one finds
# here that it has to be sorted, and asks what a run that is half done would make of it.
MAKES_THE_RUN = {
    *("task", "preset", "label", "seed", "budgets", "budget_phases"),
    *("init_from", "init_from_needed"),
    *("model", "tower", "objective", "policy"),
}
MAKES_THE_RUN_TOO = {
    *("data.kind", "data.batch_size", "data.path", "data.processor", "data.template"),
    *("data.supervision", "data.max_length", "data.too_long", "data.text_lengths"),
    *("data.max_images", "data.pack", "data.pages", "data.any_crops"),
    *("data.mirrors", "loop.steps"),
    *("scores.batches", "scores.batch_size", "scores.seed"),
}
OPTIMIZER = {
    *("learning_rate", "b1", "b2", "eps", "weight_decay", "clip_norm", "skip_norm"),
    *("warmup_steps", "constant_until", "decay", "frozen", "groups"),
    *("convolution_begins", "matrices"),
}


def keys():
    """Returns every dotted key of every configuration, and of every settings class."""
    found = set()
    for name, arguments in ARGUMENTS.items():
        for argument in arguments:
            config = importlib.import_module(f"configs.{name}").get_config(argument)
            found |= set(dotted(config.to_dict()))
    for sections in SECTIONS.values():
        for section in ("data", "optimizer", "loop", "mesh", "model", "scores"):
            for field in dataclasses.fields(sections.get(section, _Nothing)):
                found.add(f"{section}.{field.name}")
    return found


@dataclasses.dataclass
class _Nothing:
    pass


def is_of_the_run(key):
    section, _, rest = key.partition(".")
    return (
        key in MAKES_THE_RUN_TOO
        or key.startswith("data.pages.")
        or (section in MAKES_THE_RUN and not may_change(key))
        or (section == "optimizer" and rest.partition(".")[0] in OPTIMIZER)
    )


def test_every_value_is_of_one_kind():
    found = keys()
    assert len(found) > 80
    assert [k for k in sorted(found) if may_change(k) == is_of_the_run(k)] == []
    # No pattern is for a value that there is not.
    for pattern in (*CHANGE_NOTHING, *CHANGE_ROUNDING):
        one = pattern.replace("\\", "").replace("(data|fsdp|tensor)", "fsdp")
        assert one in found, pattern
        assert may_change(one)


def test_what_only_changes_rounding_changes_no_parameter():
    mini = variant("mini")
    shapes = parameter_shapes(mini)
    for change in ({"remat": "none"}, {"remat": "layer"}, {"attention": "plain"}):
        assert parameter_shapes(mini.replace(**change)) == shapes


def test_the_line_names_values_and_what_they_do():
    assert describe_changes({}) is None
    line = describe_changes({"loop.log_every": ("50", "20")})
    assert line.endswith(
        "(loop.log_every: 50 -> 20): none of its numbers changes by that"
    )
    both = {"loop.log_every": ("50", "20"), "mesh.fsdp": ("1", "4")}
    line = describe_changes(both)
    assert "loop.log_every: 50 -> 20, mesh.fsdp: 1 -> 4" in line
    assert line.endswith(": mesh.fsdp may change the rounding of its numbers")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loop.log_every": 7}, "loop.log_every: 50 -> 7"),
        ({"evaluation_pages": 64}, "evaluation_pages: 1024 -> 64"),
        ({"optimizer.accumulate": 2}, "optimizer.accumulate: 1 -> 2"),
        ({"model.remat": "none"}, 'model.remat: null -> "none"'),
        ({"mesh.data": 4, "mesh.fsdp": 2}, "mesh.data: -1 -> 4, mesh.fsdp: 1 -> 2"),
    ],
)
def test_a_run_goes_on_with_what_it_may_change(tmp_path, changes, said, caplog):
    config = universal.get_config()
    run_record.write_run_record(tmp_path, config.to_dict())
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with caplog.at_level(logging.INFO, logger="visor_jax.train"):
        train.prepare(config, tmp_path, Interruption())
    (line,) = [m for m in caplog.messages if "goes on with other values" in m]
    assert said in line


def test_a_run_from_before_adapters_had_shapes_goes_on(tmp_path):
    config = universal.get_config()
    before = config.to_dict()
    del before["model"]["adapters"], before["model"]["adapter_init"]
    run_record.write_run_record(tmp_path, before)
    train.prepare(config, tmp_path, Interruption())
    config.model.adapters = "decoder"
    with pytest.raises(ValueError, match=r'model\.adapters: "paper" -> "decoder"'):
        train.prepare(config, tmp_path, Interruption())


@pytest.mark.parametrize(
    ("config", "preset"),
    [(universal, "mini"), (universal, "demo"), (universal, "tiles"), (dense, "mini")],
)
def test_a_run_from_before_the_convolution_goes_on(tmp_path, config, preset):
    config = config.get_config(preset)
    before = config.to_dict()
    # Of two ages: with the setting and without.
    before["model"]["projector_convolution"] = None
    del before["optimizer"]["convolution_begins"]
    run_record.write_run_record(tmp_path / "with", before)
    del before["model"]["projector_convolution"]
    run_record.write_run_record(tmp_path / "without", before)
    if config.model.projector_convolution is not None:
        with pytest.raises(ValueError, match=r"projector_convolution: null -> 3"):
            train.prepare(config, tmp_path / "with", Interruption())
        config.model.projector_convolution = 0
    for age in ("with", "without"):
        train.prepare(config, tmp_path / age, Interruption())


def test_a_convolution_that_learned_from_the_start_goes_on_so(tmp_path):
    config = universal.get_config()
    before = config.to_dict()
    del before["optimizer"]["convolution_begins"]
    run_record.write_run_record(tmp_path, before)
    with pytest.raises(
        ValueError, match=r"optimizer\.convolution_begins: 0\.0 -> 0\.3"
    ):
        train.prepare(config, tmp_path, Interruption())
    config.optimizer.convolution_begins = 0.0
    train.prepare(config, tmp_path, Interruption())


@pytest.mark.parametrize(
    "changes",
    [
        {"loop.steps": 7},
        {"optimizer.learning_rate": 1.0},
        {"model.compute_dtype": "bfloat16"},
        {"data.batch_size": 32},
        {"label": "dense"},
    ],
)
def test_another_run_is_refused_with_both_values(tmp_path, changes):
    config = universal.get_config()
    config.optimizer.warmup_steps = 3
    run_record.write_run_record(tmp_path, config.to_dict())
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    (key,) = changes
    with pytest.raises(ValueError, match=f"{key}: .* -> "):
        train.prepare(config, tmp_path, Interruption())
