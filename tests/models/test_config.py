import dataclasses
import json
import re

import pytest

from tests.tiny import DECODER, NETWORKS, VISION, VISOR
from visor_jax.models.config import AdapterConfig, VLMConfig
from visor_jax.models.variants import VARIANTS, dense, variant


@pytest.mark.parametrize("config", [*NETWORKS.values(), *map(variant, VARIANTS)])
def test_config_survives_json(config):
    fields = json.loads(json.dumps(config.to_dict()))
    assert VLMConfig.from_dict(fields) == config


def test_what_qwen2_has_is_said_by_leaving_it_out():
    """Old checkpoints do not say it, and runs are compared by what they say."""
    said = VISOR.to_dict()["decoder"]
    assert not {"qkv_bias", "qk_norm"} & said.keys()
    assert VLMConfig.from_dict(VISOR.to_dict()).decoder.qkv_bias
    changes = {"qkv_bias": False, "qk_norm": True, "head_dim": 10}
    other = VISOR.replace(decoder=dataclasses.replace(DECODER, **changes))
    assert other.to_dict()["decoder"] == {**said, **changes}
    assert VLMConfig.from_dict(json.loads(json.dumps(other.to_dict()))) == other


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: fields.pop("plan"),
        lambda fields: fields.pop("vision"),
        lambda fields: fields.update(surprise=1),
        lambda fields: fields["decoder"].update(surprise=1),
        lambda fields: fields["decoder"].pop("width"),
        lambda fields: fields.update(plan=["text", "both"]),
    ],
)
def test_another_dict_is_refused(damage):
    fields = VISOR.to_dict()
    damage(fields)
    with pytest.raises(ValueError, match=r"surprise|plan|vision|width|both"):
        VLMConfig.from_dict(fields)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (VISION, {"num_heads": 3}, "num_heads=3 must divide width=16"),
        (VISION, {"num_layers": 0}, "at least 1: {'num_layers': 0}"),
        (VISION, {"image_size": 3}, "image_size=3 is below patch_size=4"),
        (DECODER, {"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        (DECODER, {"head_dim": 0}, "at least 1: {'head_dim': 0}"),
        (DECODER, {"head_dim": 1, "width": 4}, "head_dim=1 must be even"),
        (DECODER, {"vocab_size": -1}, "at least 1: {'vocab_size': -1}"),
        (VISOR.adapter, {"conv_kernel": 4}, "conv_kernel=4 must be odd"),
        (VISOR, {"adapter": AdapterConfig(num_kv_heads=3)}, "num_kv_heads=3 must"),
        (VISOR, {"compute_dtype": "float16"}, "compute_dtype='float16' is not one of"),
        (VISOR, {"remat": "all"}, "remat='all' is not one of"),
        (VISOR, {"projector_convolution": 4}, "projector_convolution=4 must be odd"),
        (VISOR, {"projector_convolution": -1}, "and at least 1; None for none"),
        (VISOR, {"reading_layers": (0, 1)}, "reading_layers [0] are not SELF layers"),
    ],
)
def test_impossible_sizes_are_named(part, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(part, **changes)


def test_unknown_variant_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"'llava'.*llava_ov_0p5b.*mini"):
        variant("llava")


@pytest.mark.parametrize("name", VARIANTS)
def test_dense_variant_of_every_size(name):
    config = dense(variant(name))
    assert config.plan.is_dense
    assert config.replace(plan=variant(name).plan) == variant(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_self_layer_of_a_variant_has_a_reader(name):
    plan = variant(name).plan
    assert max(plan.self_layers) < max(plan.cross_layers)
    assert max(len(plan.self_layers), len(plan.cross_layers)) <= plan.num_layers / 2
