"""Configurations: every file builds, every mistake is named before any work."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dedicated, dense, easy_vqa, stage_a, stage_b, universal
from configs.token_reduction import ldpv2, visor_tr
from tests import tiny
from visor_jax.models.variants import mini
from visor_jax.models.vlm import VLM
from visor_jax.settings.read import read_settings
from visor_jax.tasks.trained_parameters import trained_shapes
from visor_jax.training import initial_state
from visor_jax.training.objectives.universal_step import make_universal_step
from visor_jax.training.optimizer import make_optimizer, split_frozen


def with_data(tmp_path, config):
    """Returns the config with a data path that passes for converted data."""
    (tmp_path / "manifest.json").write_text("{}")
    config.data.path = config.data.processor = str(tmp_path)
    return config


@pytest.mark.parametrize(
    "make",
    [
        universal.get_config,
        dense.get_config,
        dedicated.get_config,
        functools.partial(dedicated.get_config, "sa2:1,5"),
        functools.partial(universal.get_config, "llava_ov_0p5b"),
        functools.partial(universal.get_config, "llava_ov_7b"),
        functools.partial(dense.get_config, "llava_ov_0p5b"),
        stage_a.get_config,
        stage_b.get_config,
    ],
)
def test_every_configuration_traces_one_step(make, tmp_path):
    config = make()
    if config.data.kind == "conversations":
        config = with_data(tmp_path, config)
    if config.label.startswith("stage"):
        config.init_from = "runs/before"
    run = read_settings(config)
    # The tower's layers are alike: two of them say what all would, in half the time.
    vision = dataclasses.replace(run.model.vision, num_layers=2)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, vision=vision))
    optimizer = make_optimizer(run.optimizer, run.loop.steps)
    sample = tiny.Sample(image=8, questions=(4, 4))
    batch = tiny.random_batch(run.model, [sample] * 2, crops=1)
    labels = np.zeros(batch.image_mask.shape, np.int32)
    batch = batch.replace(image_labels=labels)
    frozen, model = run.optimizer.frozen, VLM(run.model)
    create = functools.partial(
        initial_state.fresh_state,
        model,
        optimizer,
        frozen,
        seed=0,
        num_budgets=len(run.budgets),
    )
    state = jax.eval_shape(lambda b: create(batch=b), batch)
    # What groups are checked against before there is a state.
    trained = jax.tree.map(jnp.shape, split_frozen(state.params, frozen)[0])
    assert jax.tree.map(jnp.shape, trained_shapes(run)) == trained
    step = make_universal_step(model, optimizer, run.schedule, run.objective, frozen)
    after = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.params))


@pytest.mark.parametrize("stage", [stage_a, stage_b])
def test_stages_begin_with_a_checkpoint(stage):
    # As the flag does before it looks at overrides.
    stage.get_config().lock()
    with pytest.raises(ValueError, match=r"--config\.init_from"):
        read_settings(stage.get_config())


def test_presets_that_need_data_say_so():
    with pytest.raises(ValueError, match=r"--config\.data\.path"):
        read_settings(universal.get_config("llava_ov_0p5b"))


def test_a_data_path_without_a_manifest_is_refused(tmp_path):
    config = universal.get_config("llava_ov_0p5b")
    config.data.path = str(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_settings(config)


def test_data_without_a_tokenizer_are_refused(tmp_path):
    config = with_data(tmp_path, universal.get_config("llava_ov_0p5b"))
    config.data.processor = None
    with pytest.raises(ValueError, match=r"--config\.data\.processor=DIR"):
        read_settings(config)
    config.init_from = "somewhere"
    assert read_settings(config).init_from == "somewhere"


def test_a_label_that_no_report_knows_is_refused_before_training():
    config = universal.get_config()
    config.label = "mine"
    with pytest.raises(ValueError, match=r"'mine'.*'stage:<name>'"):
        read_settings(config)


def test_budgets_of_a_sweep_are_those_of_its_file(tmp_path):
    file = tmp_path / "viable.json"
    plan = [kind.value for kind in mini().plan.kinds]
    file.write_text(json.dumps({"plan": plan, "budgets": ["sa1:3", "sa2:1,5"]}))
    config = universal.get_config()
    config.budgets = (f"@{file}", "none")
    config.budget_phases = ((1.0, {"any": 1.0}),)
    assert read_settings(config).budgets.names == ("sa1:3", "sa2:1,5", "sa0")
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"viable\.json holds no budgets"):
        read_settings(config)


def test_unknown_preset():
    with pytest.raises(ValueError, match="Unknown preset 'huge'"):
        universal.get_config("huge")


def change(path: str, value):
    def apply(config):
        *parents, last = path.split(".")
        for name in parents:
            config = config[name]
        with config.unlocked():
            config[last] = value

    return apply


WITH_CONVOLUTION = {
    "universal": (universal.get_config, 0.3),
    "tiles": (functools.partial(universal.get_config, "tiles"), 0.12),
    "dedicated": (dedicated.get_config, 0.3),
    # Begun with a network whose easy tasks are learned.
    "visor_tr": (visor_tr.get_config, 0.0),
    "stage_a": (stage_a.get_config, 0.0),
}
WITHOUT = {
    "dense": dense.get_config,
    "ldpv2": ldpv2.get_config,
    "easy_vqa": easy_vqa.get_config,
    "easy_vqa:dense": functools.partial(easy_vqa.get_config, "dense"),
    **{
        name: functools.partial(universal.get_config, name)
        for name in ("demo", "llava_ov_7b")
    },
}


@pytest.mark.parametrize("name", WITH_CONVOLUTION)
def test_what_has_a_convolution_and_when_it_begins(name):
    make, begins = WITH_CONVOLUTION[name]
    config = make()
    if config.get("init_from_needed"):
        config.init_from = "somewhere"
    run = read_settings(config, data_needed=False)
    assert run.model.projector_convolution == 3
    assert run.optimizer.convolution_begins == begins
    config.model.projector_convolution = 0
    run = read_settings(config, data_needed=False)
    assert run.model.projector_convolution is None


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_none_may_be_given_one(name):
    config = WITHOUT[name]()
    if config.get("init_from_needed"):
        config.init_from = "somewhere"
    run = read_settings(config, data_needed=False)
    assert run.model.projector_convolution is None
    assert run.optimizer.convolution_begins == 0
    config.model.projector_convolution = 3
    run = read_settings(config, data_needed=False)
    assert run.model.projector_convolution == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("surprise", 1, r"Unknown keys \['surprise'\] in config"),
        ("model.depth", 3, r"Unknown keys \['depth'\] in model"),
        ("optimizer.lr", 3, r"Unknown keys \['lr'\] in optimizer"),
        ("data.pages.size", 3, r"Unknown keys \['size'\] in data.pages"),
        ("model.variant", "maxi", "Unknown variant 'maxi'"),
        ("model.plan", "sparse", "model.plan='sparse'"),
        ("model.self_layers", (0, 1), r"layers \[0\] are both CROSS and SELF"),
        ("model.self_layers", (1, 9), r"SELF layers \[9\] are not in 0..8"),
        ("model.cross_layers", (2, 2), r"CROSS layers \[2\] are listed repeatedly"),
        ("model.remat", "half", "remat='half'"),
        ("model.projector_convolution", 2, r"projector_convolution=2 must be odd"),
        ("model.adapters", "wide", r"adapters='wide' is not one of"),
        ("model.adapter_init", "zeros", r"adapter_init='zeros' is not one of"),
        ("model.adapter_init", "own", r"copies 1 key/value heads and the adapters"),
        ("model.compute_dtype", "int8", "compute_dtype='int8'"),
        ("budgets", ("sa1:2",), r"switches on layers \[2\]"),
        ("budgets", ("most",), "Unknown budget 'most'"),
        ("budgets", ("none", "sa0"), "listed more than once"),
        ("budget_phases", ((0.5, {"all": 1.0}),), "the last at 1"),
        ("loop.steps", 0, "at least 1"),
        ("loop.steps", 50, "warmup_steps=100"),
        ("tower.steps", -1, "Impossible tower settings"),
        ("mesh.data", 0, "at least 1"),
        ("data.kind", "video", "data.kind='video'"),
        ("data.pages.text_length", 3, "text_length=3"),
        ("data.batch_size", 0, "batch_size"),
        ("task", "sorting", "task='sorting'"),
        ("evaluation_pages", 0, "evaluation_pages=0"),
        ("seed", 10**20, "seed=1"),
        ("objective.reading_weight", -1.0, "reading_weight"),
        ("optimizer.decay", "step", "decay='step'"),
    ],
)
def test_mistakes_are_named(path, value, message):
    config = universal.get_config()
    change(path, value)(config)
    with pytest.raises(ValueError, match=message):
        read_settings(config)


def test_a_tower_is_pretrained_on_questions_about_one_picture():
    config = easy_vqa.get_config()
    assert read_settings(config, data_needed=False).tower.steps
    config.data.max_images = 2
    message = "about one picture, and data.max_images=2"
    with pytest.raises(ValueError, match=message):
        read_settings(config, data_needed=False)


def test_missing_keys_are_named():
    config = universal.get_config().to_dict()
    del config["optimizer"], config["seed"]
    with pytest.raises(ValueError, match=r"lacks the keys \['optimizer', 'seed'\]"):
        read_settings(config)


def test_adapters_have_the_shape_and_the_start_that_is_asked_for():
    config = universal.get_config()
    assert read_settings(config).model.adapter.num_kv_heads == 2
    config.model.adapters = "decoder"
    assert read_settings(config).model.adapter.num_kv_heads == 1
    config.model.adapter_init = "own"
    with pytest.raises(ValueError, match=r"adapter_init='own' copies.*init_from"):
        read_settings(config)
    config.init_from, config.tower.steps = "somewhere", 0
    run = read_settings(config)
    assert (run.adapter_init, run.model.adapter.qkv_bias) == ("own", True)


def test_own_layers_replace_those_of_the_variant():
    config = universal.get_config()
    config.model = {"variant": "mini", "self_layers": (2, 7), "cross_layers": (3,)}
    run = read_settings(config)
    assert run.model.plan.self_layers == (2, 7)
    assert run.model.plan.cross_layers == (3,)
    assert run.model.reading_layers == ()
    assert run.budgets.names == ("sa0", "sa1:2", "sa1:7", "sa2:2,7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.variant": "mini"}, "set model.variant to 'mini_tiles'"),
        ({"tower.steps": 5}, "tower.steps=5"),
        ({"data.pages.kind": "digits"}, "any_crops"),
        ({"data.pages.any_crops": False}, "crop_phases=.*are for any_crops=True"),
        (
            {
                "data.pages.kind": "digits",
                "data.pages.any_crops": False,
                "data.pages.crop_phases": ((1.0, "any"),),
            },
            "Unknown tasks",
        ),
    ],
)
def test_tiled_pages_need_a_network_of_their_form(changes, message):
    config = universal.get_config("tiles")
    run = read_settings(config)
    assert run.data.pages.kind == "tiles"
    # Its steps draw crops, so it is right at any: `looking_at` asks the network.
    assert run.model.any_crops
    assert not read_settings(universal.get_config()).model.any_crops
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        read_settings(config)
