"""Groups of parameters: every configuration against its real network, and mistakes."""

import dataclasses
import functools
import re
from pathlib import Path

import flax.traverse_util
import jax
import pytest

from configs import (
    common,
    dedicated,
    dense,
    easy_vqa,
    policy,
    stage_a,
    stage_b,
    universal,
)
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.stored_network import StoredNetwork
from visor_jax.models import variants
from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PARAMS
from visor_jax.settings import read as settings_read
from visor_jax.settings.read import read_settings
from visor_jax.tasks import trained_parameters
from visor_jax.tasks.trained_parameters import check_groups, trained_shapes
from visor_jax.training.objectives.policy_objective import OBJECTIVES
from visor_jax.training.optimizer import OptimizerSettings, make_optimizer
from visor_jax.training.parameter_groups import ParameterGroup, group_of_paths

WITH_POLICY = [preset for preset in common.PRESETS if preset != "tiles"]
WITH_POLICY.append(easy_vqa.NAME)
CONFIGS = {
    "dedicated": (dedicated, ("none", "all", "sa2:1,5")),
    "dense": (dense, common.PRESETS),
    "easy_vqa": (easy_vqa, easy_vqa.PRESETS),
    "policy": (policy, [f"{k},{p}" for k in OBJECTIVES for p in WITH_POLICY]),
    "stage_a": (stage_a, common.PRESETS),
    "stage_b": (stage_b, common.PRESETS),
    "universal": (universal, common.PRESETS),
}
# Where a tower has been taught before and all else begins with nothing.
SLOW_TOWER = {"vision_tower", "all_else"}
# As it was once: what it calls projector is not what the network calls so.
OLD_PROJECTOR = "^(projector/|image_newline$)"


@pytest.fixture(autouse=True, scope="module")
def _networks_once():
    """Every network is traced once, and policies are of networks that are not here."""
    with pytest.MonkeyPatch.context() as patch:
        shapes = functools.cache(parameter_shapes)
        patch.setattr(trained_parameters, "parameter_shapes", shapes)
        patch.setattr(settings_read, "newest_network", stored_network)
        yield


def stored_network(preset):
    """Returns what a checkpoint of this preset would say."""
    own = preset == easy_vqa.NAME
    config = easy_vqa.get_config() if own else common.base(preset)
    model = variants.variant(config.model.variant)
    budgets = BudgetSet.parse(["none", "all"], model.plan).names
    return StoredNetwork(
        step=Path(preset), config=model, metadata={"budgets": list(budgets)}
    )


def read(config):
    """Returns the settings of a run that begins where it has to."""
    config.init_from = config.preset
    if config.task == "universal" and config.tower is not None:
        config.tower.steps = 0
    return read_settings(config, data_needed=False)


def paths(tree):
    return set(flax.traverse_util.flatten_dict(tree, sep="/"))


def group_by_name(path, groups):
    """Returns the group that a parameter is meant to have, told by its module."""
    if not groups:
        return "rest"
    if groups == SLOW_TOWER:
        return "vision_tower" if path.startswith("vision_tower/") else "all_else"
    if "/cross_attention/" in path:
        return "adapters"
    return {
        "vision_tower": "vision_tower",
        "multi_modal_projector": "projector",
        "image_newline": "projector",
        "language_model": "language_model",
        "lm_head": "language_model",
    }[path.split("/")[0]]


def test_every_configuration_is_tried():
    files = {path.stem for path in Path(common.__file__).parent.glob("*.py")}
    assert files - {"common", "__init__"} == set(CONFIGS)
    used = {common.base(preset).model.variant for preset in common.PRESETS}
    used.add(easy_vqa.get_config().model.variant)
    assert used == set(variants.VARIANTS)


def test_there_is_no_policy_for_tiles():
    with pytest.raises(ValueError, match="no policy for the preset 'tiles'"):
        policy.get_config("pseudo_labels,tiles")


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, each) for name, (_, arguments) in CONFIGS.items() for each in arguments],
)
def test_every_trained_parameter_is_in_the_group_it_is_meant_for(name, argument):
    run = read(CONFIGS[name][0].get_config(argument))
    check_groups(run)
    found = group_of_paths(trained_shapes(run), run.optimizer.groups)
    published = run.preset.startswith("llava")
    grouped = run.task == "universal" and published and name != "stage_a"
    groups = set(run.optimizer.groups)
    assert bool(groups) == (grouped or name == "easy_vqa")
    assert (groups == SLOW_TOWER) == (name == "easy_vqa")
    assert found == {path: group_by_name(path, groups) for path in found}
    if run.task == "policy":
        assert {path.split("/")[0] for path in found} == {PARAMS}
        return
    whole = paths(parameter_shapes(run.model, reading=True))
    frozen = {path for path in whole if path.startswith("vision_tower/post_layernorm/")}
    if name == "stage_a":
        new = re.compile("/cross_attention/|/convolution_kernel$")
        frozen = {path for path in whole if not new.search(path)}
    assert set(found) == whole - frozen
    head = grouped and not run.model.decoder.tie_embeddings
    assert not head or found["lm_head/kernel"] == "language_model"


def with_groups(run, **groups):
    """Returns the run with more or other groups; None takes one away."""
    given = {**run.optimizer.groups, **groups}
    given = {name: group for name, group in given.items() if group is not None}
    return dataclasses.replace(
        run, optimizer=dataclasses.replace(run.optimizer, groups=given)
    )


def group(pattern):
    return ParameterGroup(pattern=pattern, learning_rate=1e-4)


@functools.cache
def published(preset="llava_ov_0p5b"):
    return read(universal.get_config(preset))


def message_of(run):
    """Returns what the check says; the optimiser of that run says the same."""
    with pytest.raises(ValueError, match=r"optimizer\.groups") as error:
        check_groups(run)
    optimizer = make_optimizer(run.optimizer, run.loop.steps)
    with pytest.raises(ValueError, match=r"optimizer\.groups") as again:
        jax.eval_shape(optimizer.init, trained_shapes(run))
    assert str(again.value) == str(error.value)
    return str(error.value)


def test_parameters_in_no_group_are_listed_and_how_to_mend_it():
    run = with_groups(published("llava_ov_7b"), projector=group(OLD_PROJECTOR))
    run = with_groups(run, language_model=group("^language_model/(?!.*/cross_att)"))
    assert message_of(run).splitlines() == [
        "optimizer.groups must have every parameter that trains in exactly one group.",
        "Parameters in no group (5):",
        "  lm_head/kernel",
        "  multi_modal_projector/linear_1/bias",
        "  multi_modal_projector/linear_1/kernel",
        "  multi_modal_projector/linear_2/bias",
        "  multi_modal_projector/linear_2/kernel",
        "Add a group for them, or widen the pattern of one.",
        "The patterns are:",
        "  adapters: '/cross_attention/'",
        "  language_model: '^language_model/(?!.*/cross_att)'",
        f"  projector: {OLD_PROJECTOR!r}",
        "  vision_tower: '^vision_tower/'",
    ]


def test_adapters_in_two_groups_are_listed_with_both():
    run = with_groups(published(), language_model=group("^language_model/"))
    lines = message_of(run).splitlines()
    assert lines[1] == "Parameters in several groups (56):"
    layers = "language_model/layers_0,3,6,9,12,15,18,21"
    both = "in 'adapters' and 'language_model'"
    assert f"  {layers}/cross_attention/q_proj/kernel {both}" in lines
    assert len([line for line in lines if line.endswith(both)]) == 7
    assert "Make the patterns exclude one another." in lines
    assert "  language_model: '^language_model/'" in lines


def test_groups_without_parameters_are_named_beside_the_rest():
    run = with_groups(published(), adapters=group("/cross_attn/"))
    message = message_of(run)
    assert "Parameters in no group (56):" in message
    assert "The group 'adapters' has no parameter that trains: mend" in message
    assert "  adapters: '/cross_attn/'" in message


def test_groups_of_the_embedded_benchmark_must_cover_its_reading_heads():
    run = with_groups(read(universal.get_config()), **published().optimizer.groups)
    message = message_of(run)
    assert "Parameters in no group (6):\n  reading_heads_1/bias\n" in message
    assert "model.reading_layers: give them a group, '^reading_heads_', or" in message
    check_groups(with_groups(run, reading=group("^reading_heads_")))
    plain = dataclasses.replace(run, model=run.model.replace(reading_layers=()))
    check_groups(plain)


def test_frozen_parameters_need_no_group():
    run = read(stage_a.get_config("llava_ov_0p5b"))
    check_groups(with_groups(run, adapters=group("/cross_attention/")))


def test_stage_a_trains_a_new_convolution_beside_the_adapters():
    config = stage_a.get_config("llava_ov_0p5b")
    config.model.projector_convolution = 3
    found = paths(trained_shapes(read(config)))
    apart = {path for path in found if "/cross_attention/" not in path}
    assert apart == {"multi_modal_projector/convolution_kernel"}


def test_groups_of_a_policy_are_of_its_own_parameters():
    run = read(policy.get_config("pseudo_labels"))
    of_network = message_of(with_groups(run, **published().optimizer.groups))
    assert "  policy/hidden_0/bias\n" in of_network
    assert "The group 'vision_tower' has no parameter that trains" in of_network
    hidden = with_groups(run, hidden=group("^policy/hidden_"))
    assert "Parameters in no group (2):\n  policy/logits/" in message_of(hidden)
    check_groups(with_groups(hidden, logits=group("^policy/logits/")))


def test_the_group_of_all_is_there_when_there_are_no_others():
    params = {"a": {"b": 1, "c": 2}}
    assert group_of_paths(params, {}) == {"a/b": "rest", "a/c": "rest"}
    with pytest.raises(ValueError, match=r"'rest'.*another name"):
        OptimizerSettings(learning_rate=1.0, groups={"rest": group("a")})


@pytest.mark.parametrize(
    "wrong", [{"pattern": ""}, {"pattern": "("}, {"learning_rate": 0.0}]
)
def test_a_group_needs_a_pattern_and_a_rate(wrong):
    with pytest.raises(ValueError, match=r"pattern|learning_rate"):
        ParameterGroup(**{"pattern": "a", "learning_rate": 1.0, **wrong})
