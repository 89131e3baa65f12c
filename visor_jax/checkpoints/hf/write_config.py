"""From a network's `VLMConfig` to the config.json that transformers reads."""

from collections.abc import Mapping
from typing import Any

from visor_jax.checkpoints.hf.read_config import ARCHITECTURE, MODEL_TYPE
from visor_jax.models.config import VisionConfig, VLMConfig

# What the published files say beside the sizes.
_PUBLISHED = {
    "model_type": MODEL_TYPE,
    "architectures": [ARCHITECTURE],
    "image_token_index": 151646,
    "video_token_index": 151647,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
    "text_config": {"bos_token_id": 151643, "eos_token_id": 151645},
}
_TEXT = {"model_type": "qwen2"}
_VISION = {"model_type": "siglip_vision_model", "vision_use_head": False}


def to_config_json(
    config: VLMConfig, original: Mapping[str, Any] | None, dtype: str
) -> dict[str, Any]:
    """Returns config.json of the dense part of a network, as transformers reads it.

    Args:
      original: config.json that the network was imported with; what the network does
        not know itself (token ids, image grids) stays as it is there. None for the
        published values.
      dtype: name of the weights' dtype.

    Raises:
      ValueError: for a network that LLaVA-OneVision has no place for.
    """
    _check(config)
    fields = dict(original or _PUBLISHED)
    text = {**_TEXT, **(fields.get("text_config") or {})}
    vision = {**_VISION, **(fields.get("vision_config") or {})}
    for part in (fields, text, vision):
        part.pop("dtype", None)
        part.pop("torch_dtype", None)
    tied = {"tie_word_embeddings": config.decoder.tie_embeddings}
    text |= _decoder_sizes(config) | tied
    vision |= _tower_sizes(config.vision)
    parts = {"text_config": text, "vision_config": vision}
    return {**fields, **parts, **tied, "torch_dtype": dtype}


def _check(config: VLMConfig) -> None:
    """Raises ValueError for a network that LLaVA-OneVision has no place for."""
    of_its_own = {
        "image_newline": not config.image_newline,
        "grid_embedding": config.grid_embedding,
        "projector_convolution": config.projector_convolution is not None,
    }
    found = [name for name, is_there in of_its_own.items() if is_there]
    if found:
        said = ", ".join(f"{name}={getattr(config, name)}" for name in found)
        raise ValueError(
            f"This network is no LLaVA-OneVision: it has {said}, and transformers has "
            "no place for that. Only networks that began as LLaVA-OneVision, and got "
            "no convolution, can be exported."
        )
    d = config.decoder
    if d.qk_norm or not d.qkv_bias:
        raise ValueError(
            "This network is no LLaVA-OneVision: its decoder has "
            f"qkv_bias={d.qkv_bias} and qk_norm={d.qk_norm}, and that of transformers "
            "is a Qwen2."
        )


def _decoder_sizes(config: VLMConfig) -> dict[str, Any]:
    d = config.decoder
    sizes = {
        "vocab_size": d.vocab_size,
        "hidden_size": d.width,
        "intermediate_size": d.mlp_width,
        "num_hidden_layers": config.plan.num_layers,
        "num_attention_heads": d.num_heads,
        "num_key_value_heads": d.num_kv_heads,
        "rms_norm_eps": d.norm_eps,
        "max_position_embeddings": d.max_positions,
        # Both spellings: transformers before and since version 5.
        "rope_theta": d.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": d.rope_theta},
    }
    if d.heads_width != d.width:
        sizes["head_dim"] = d.head_dim
    return sizes


def _tower_sizes(vision: VisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_width,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "layer_norm_eps": vision.norm_eps,
    }
