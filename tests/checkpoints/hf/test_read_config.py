"""config.json in its old and new forms, and what is refused."""

import dataclasses
import json

import pytest

from visor_jax.checkpoints.hf import read_config
from visor_jax.checkpoints.hf.backbones import (
    BACKBONES,
    as_transformers,
    backbone_of,
)
from visor_jax.checkpoints.hf.write_config import to_config_json
from visor_jax.models import variants

# What the published files say (transformers 4.45), as far as it matters.
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
}
SMALL = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 152000,
}
LARGE = {
    **SMALL,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152128,
}


def published(text=SMALL, **changes):
    return {
        "model_type": "llava_onevision",
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "ignore_index": -100,
        "use_image_newline_parameter": True,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "text_config": dict(text),
        "vision_config": VISION,
        **changes,
    }


def text(**changes):
    return published({**SMALL, **changes})


def original(**changes):
    return {
        **{key: SMALL[key] for key in SMALL if key != "model_type"},
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
        **changes,
    }


def read(fields):
    fields = as_transformers(fields)
    return backbone_of(fields).read_config(fields)


def expected(name):
    return variants.dense(variants.variant(name)).replace(
        compute_dtype="float32", remat="none"
    )


def test_the_published_sizes():
    assert read(published()) == expected("llava_ov_0p5b")
    assert read(published(LARGE)) == expected("llava_ov_7b")


def test_the_form_of_version_5():
    new = {key: value for key, value in SMALL.items() if key != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    new["layer_types"] = ["full_attention"] * 24
    fields = published(new, tie_word_embeddings=True, dtype="float16")
    assert read(fields) == expected("llava_ov_0p5b")
    assert read(published(new, vision_feature_layer=[-1])) == expected("llava_ov_0p5b")


def test_the_original_code():
    assert read(original()) == expected("llava_ov_0p5b")
    assert as_transformers(original())["image_grid_pinpoints"][-1] == [2304, 2304]


def grids(value):
    return as_transformers(original(image_grid_pinpoints=value))["image_grid_pinpoints"]


def test_the_original_code_spans_grids_in_tiles():
    """Width by height there, height and width here."""
    published = grids([[384 * w, 384 * h] for w in range(1, 7) for h in range(1, 7)])
    assert len(published) == 36
    assert published[:2] == [[384, 384], [384, 768]]
    assert (
        published
        == grids("(1x1),...,(6x6)")
        == read_config.parse({"model_type": "llava_onevision"}).image_grid_pinpoints
    )
    assert grids("(1x1), ..., (2x1)") == [[384, 384], [384, 768]]
    assert len(grids("(1x1),...,(3x3)")) == 9
    assert grids([[768, 384]]) == grids("[[768, 384]]") == [[384, 768]]


def test_what_the_original_code_leaves_out_may_be_said():
    fields = original(
        mm_newline_position="one_token",
        mm_spatial_pool_mode="bilinear",
        mm_spatial_pool_stride=None,
        mm_resampler_type=None,
        mm_use_im_start_end=False,
    )
    assert read(fields) == expected("llava_ov_0p5b")


def test_absent_values_are_the_classes_own():
    lacking = {key: value for key, value in SMALL.items() if key != "rope_theta"}
    assert read(published(lacking)).decoder.rope_theta == 1e4
    assert read(published(vision_config=None)).vision == expected("llava_ov_7b").vision


def test_heads_may_be_wider_than_the_stream():
    config = read(text(head_dim=128))
    assert (config.decoder.head_dim, config.decoder.heads_width) == (128, 14 * 128)
    for source in (None, published()):
        assert read(to_config_json(config, source, "bfloat16")) == config
    # As transformers has it: whatever the heads leave over belongs to none.
    assert read(text(num_attention_heads=12)).decoder.head_dim == 74


@pytest.mark.parametrize("changes", [{"qk_norm": True}, {"qkv_bias": False}])
def test_what_qwen2_cannot_compute_is_not_written(changes):
    config = expected("llava_ov_0p5b")
    decoder = dataclasses.replace(config.decoder, **changes)
    with pytest.raises(ValueError, match="is a Qwen2"):
        to_config_json(config.replace(decoder=decoder), None, "bfloat16")


def written(backbone, config):
    """Returns its config.json, None if the backbone has no place for the network."""
    try:
        return backbone.write_config(config, None, "float32")
    except ValueError:
        return None


def test_every_backbone_is_found_by_its_own_configuration():
    qwen2 = expected("llava_ov_0p5b")
    decoder = dataclasses.replace(qwen2.decoder, qkv_bias=False, qk_norm=True)
    networks = qwen2, qwen2.replace(decoder=decoder)
    for model_type, backbone in BACKBONES.items():
        fields = [written(backbone, config) for config in networks]
        (only,) = [found for found in fields if found is not None]
        assert only["model_type"] == model_type
        assert backbone_of(only) is backbone


@pytest.mark.parametrize("name", ["llava_ov_0p5b", "llava_ov_7b"])
def test_what_is_written_is_read_again(name):
    config = expected(name)
    for source in (None, published(), published(LARGE)):
        fields = json.loads(json.dumps(to_config_json(config, source, "bfloat16")))
        assert read(fields) == config
        assert fields["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen2_vl"}, "another kind: model_type='qwen2_vl'"),
        ({}, "another kind: model_type=None"),
        ({}, r"model types \['llava_onevision'.*\['LlavaQwenForCausalLM'\]"),
        (text(model_type="llama"), "text_config.model_type='llama'"),
        (text(hidden_act="gelu"), "text_config.hidden_act='gelu' instead of 'silu'"),
        (text(rope_scaling={"type": "linear", "factor": 2.0}), "rope_type='linear'"),
        (text(use_sliding_window=True, max_window_layers=0), "sliding_attention"),
        (text(hidden_size="wide"), "values that do not work.*hidden_size"),
        (text(num_attention_heads=13), "num_heads=13"),
        (published(vision_feature_layer=-2), "vision_feature_layer=-2 instead of -1"),
        (published(vision_feature_select_strategy="default"), "'default' instead"),
        (published(projector_hidden_act="relu"), "projector_hidden_act='relu'"),
        (published(multimodal_projector_bias=False), "bias=False instead of True"),
        (published(vision_config={"model_type": "clip_vision_model"}), "clip_vision"),
        (original(mm_newline_position="grid"), "mm_newline_position='grid' instead of"),
        (original(mm_spatial_pool_mode="average"), "pool_mode='average' instead of"),
        (original(mm_spatial_pool_stride=4), "mm_spatial_pool_stride=4 instead of 2"),
        (original(mm_resampler_type="spatial_pool"), "resampler_type='spatial_pool'"),
        (original(mm_use_im_start_end=True), "mm_use_im_start_end=True"),
        (original(add_faster_video=True), "add_faster_video=True instead of False"),
        (original(image_grid_pinpoints="big"), "image_grid_pinpoints='big'"),
        (original(image_grid_pinpoints=[]), r"image_grid_pinpoints=\[\]"),
        (original(mm_projector_type="linear"), "mm_projector_type='linear'"),
        (original(mm_vision_tower="openai/clip"), "mm_vision_tower='openai/clip'"),
    ],
)
def test_what_is_not_computed_here_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        read(fields)


def test_everything_wrong_is_said_at_once():
    fields = published(projector_hidden_act="relu", vision_feature_layer=-2)
    with pytest.raises(ValueError, match=r"'relu'.*; vision_feature_layer=-2"):
        read(fields)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        read_config.read_config_json(tmp_path)
    for content in ('{"model_type":', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            read_config.read_config_json(tmp_path)
