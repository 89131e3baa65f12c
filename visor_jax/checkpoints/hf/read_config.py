"""From config.json of a LLaVA-OneVision folder to `VLMConfig`.

transformers parses the file, so every form that it reads is read here, with its
defaults (the rotary base at the top or under "rope_parameters", absent keys, "dtype" or
"torch_dtype"). What the network here cannot compute is refused, never ignored.
"""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.checkpoints.hf.weights.weights_folder import CONFIG
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.runtime.json_object import read_json_object

MODEL_TYPE = "llava_onevision"
ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"
ORIGINAL_ARCHITECTURE = "LlavaQwenForCausalLM"
# The tower of every published original checkpoint, without its last block.
_ORIGINAL_TOWER = "siglip-so400m-patch14-384"
_SO400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
# What the original code takes for absent keys, and the network here computes. The pools
# and the place of the newline are those of videos.
_ORIGINAL_DEFAULTS = {
    "mm_newline_position": "one_token",
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "add_faster_video": False,
}
_GRID_SPAN = re.compile(r"\((\d+)x(\d+)\),(?:.*,)?\((\d+)x(\d+)\)")
_TEXT_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "hidden_act"),
    *("use_sliding_window", "sliding_window", "max_window_layers"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "initializer_range"),
)


def read_config_json(folder: Path) -> dict[str, Any]:
    """Returns the object in the folder's config.json.

    Raises:
      ValueError: if it is not there or is no JSON object.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} is no model of Hugging Face: it has no {CONFIG}.")
    return read_json_object(file)


def from_original(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what transformers would write for a config.json of the original code.

    Raises:
      ValueError: naming everything that the network here does not compute.
    """
    expected = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
    }
    problems = _differing(fields, expected)
    # Absent or null: what the original code does then is what is expected.
    given = {
        key: value
        for key, value in _ORIGINAL_DEFAULTS.items()
        if fields.get(key) is not None
    }
    problems += _differing(fields, given)
    tower = str(fields.get("mm_vision_tower"))
    if not tower.endswith(_ORIGINAL_TOWER):
        problems.append(f"mm_vision_tower={tower!r} instead of {_ORIGINAL_TOWER!r}")
    if problems:
        raise _unsupported(problems)
    text = {key: fields[key] for key in _TEXT_KEYS if key in fields}
    translated = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "text_config": {"model_type": "qwen2", **text},
        "vision_config": dict(_SO400M),
        "tie_word_embeddings": fields.get("tie_word_embeddings", False),
        "vision_aspect_ratio": fields.get("image_aspect_ratio", "anyres_max_9"),
    }
    pinpoints = fields.get("image_grid_pinpoints")
    if pinpoints is not None:
        translated["image_grid_pinpoints"] = _pinpoints(pinpoints)
    return translated


def _pinpoints(given: Any) -> list[list[int]]:
    """Returns (height, width) of the original code's grids of (width, height).

    They may be listed, as JSON or as text, or spanned in tiles: "(1x1),...,(6x6)".
    Sorted as in the published conversion; the order decides between equals alone.

    Raises:
      ValueError: for anything else.
    """
    side = _SO400M["image_size"]
    spanned = isinstance(given, str) and _GRID_SPAN.fullmatch(given.replace(" ", ""))
    if spanned:
        w0, h0, w1, h1 = map(int, spanned.groups())
        grids = itertools.product(range(h0, h1 + 1), range(w0, w1 + 1))
        found = [[rows * side, columns * side] for rows, columns in grids]
    else:
        try:
            listed = json.loads(given) if isinstance(given, str) else given
            found = sorted([int(height), int(width)] for width, height in listed)
        except (ValueError, TypeError):
            found = []
    if not found:
        raise _unsupported([f"image_grid_pinpoints={given!r}"])
    return found


def parse(fields: Mapping[str, Any]) -> Any:
    """Returns transformers' `LlavaOnevisionConfig` of the object in config.json.

    Raises:
      ValueError: for values that transformers refuses.
    """
    from transformers import LlavaOnevisionConfig

    try:
        return LlavaOnevisionConfig.from_dict(dict(fields))
    except Exception as error:  # Its validation has error classes of its own.
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{CONFIG} has values that do not work: {reason}") from error


def to_vlm_config(fields: Mapping[str, Any]) -> VLMConfig:
    """Returns the dense network that the object in config.json describes.

    Its head is tied as the object says; see `read_params.is_tied`.

    Raises:
      ValueError: naming everything that the network here does not compute.
    """
    parsed = parse(fields)
    problems = _unsupported_values(parsed)
    if problems:
        raise _unsupported(problems)
    vision, text = parsed.vision_config, parsed.text_config
    heads = text.num_attention_heads
    return VLMConfig(
        vision=VisionConfig(
            width=vision.hidden_size,
            mlp_width=vision.intermediate_size,
            num_layers=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            norm_eps=vision.layer_norm_eps,
        ),
        decoder=DecoderConfig(
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            mlp_width=text.intermediate_size,
            num_heads=heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            rope_theta=float(text.rope_parameters["rope_theta"]),
            max_positions=text.max_position_embeddings,
            norm_eps=text.rms_norm_eps,
            tie_embeddings=parsed.tie_word_embeddings,
        ),
        adapter=AdapterConfig(num_kv_heads=text.num_key_value_heads),
        plan=LayerPlan.dense(text.num_hidden_layers),
    )


def _unsupported_values(parsed: Any) -> list[str]:
    vision, text = parsed.vision_config, parsed.text_config
    layer = parsed.vision_feature_layer
    rope = text.rope_parameters if text.model_type == "qwen2" else {}
    found = {
        "vision_config.model_type": vision.model_type,
        "text_config.model_type": text.model_type,
        "vision_config.hidden_act": getattr(vision, "hidden_act", None),
        "vision_config.num_channels": getattr(vision, "num_channels", None),
        "text_config.hidden_act": getattr(text, "hidden_act", None),
        "text_config.layer_types": sorted(
            set(getattr(text, "layer_types", None) or ())
        ),
        "rope_type": (rope or {}).get("rope_type", "default"),
        "partial_rotary_factor": (rope or {}).get("partial_rotary_factor", 1.0),
        "projector_hidden_act": parsed.projector_hidden_act,
        "multimodal_projector_bias": parsed.multimodal_projector_bias,
        "vision_feature_select_strategy": parsed.vision_feature_select_strategy,
        "vision_feature_layer": layer[0] if layer == [-1] else layer,
    }
    return _differing(
        found,
        {
            "vision_config.model_type": "siglip_vision_model",
            "text_config.model_type": "qwen2",
            "vision_config.hidden_act": "gelu_pytorch_tanh",
            "vision_config.num_channels": 3,
            "text_config.hidden_act": "silu",
            "text_config.layer_types": ["full_attention"],
            "rope_type": "default",
            "partial_rotary_factor": 1.0,
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": True,
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
        },
    )


def _differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}={found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]


def _unsupported(problems: list[str]) -> ValueError:
    return ValueError(
        f"{CONFIG} describes what this network does not compute: {'; '.join(problems)}."
    )
