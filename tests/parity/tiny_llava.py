"""Tiny random LLaVA-OneVision checkpoints of transformers, in every key layout."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.data import tiny_llava as small

PATCH = 14
EOS, IMAGE_TOKEN, VIDEO_TOKEN = small.END, small.IMAGE, small.VIDEO
LAYERS = 2

# From the names in memory, whose tower lacks the "vision_model" of old files.
_RENAMED = {
    "memory": {},
    "published": {
        r"^model\.vision_tower\.": "vision_tower.vision_model.",
        r"^model\.language_model\.": "language_model.model.",
        r"^model\.": "",
        r"^lm_head\.": "language_model.lm_head.",
    },
    "from_config": {
        r"^model\.language_model\.": "language_model.model.",
        r"^model\.": "",
        r"^lm_head\.": "language_model.lm_head.",
    },
    "4.52": {r"^model\.vision_tower\.": "model.vision_tower.vision_model."},
    "original": {
        r"^model\.vision_tower\.": "model.vision_tower.vision_tower.vision_model.",
        r"^model\.language_model\.": "model.",
        r"^model\.multi_modal_projector\.linear_1": "model.mm_projector.0",
        r"^model\.multi_modal_projector\.linear_2": "model.mm_projector.2",
    },
}
LAYOUTS = tuple(_RENAMED)


def build(
    *,
    side: int,
    tied: bool,
    seed: int = 0,
    layers: int = LAYERS,
    decoder: type = Qwen2Config,
    **values: object,
):
    """Returns a model whose biases and norms are noise too.

    decoder: class of its configuration, values: what that has beside Qwen2's.
    """
    pinpoints = [[side * i, side * j] for i in range(1, 4) for j in range(1, 4)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=decoder(
            vocab_size=264,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            eos_token_id=EOS,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            **values,
        ),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 if parameter.ndim == 1 else 0.05
            parameter.add_(size * torch.randn(parameter.shape))
    return model.eval()


def state(model, layout: str) -> dict[str, torch.Tensor]:
    """Returns the tensors that a file of this layout holds."""
    tensors = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return {_renamed(key, _RENAMED[layout]): t for key, t in tensors.items()}


def _renamed(key: str, rules: dict[str, str]) -> str:
    for pattern, replacement in rules.items():
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key)
    return key


def save(model, folder: Path, layout: str = "published", **changes: object) -> Path:
    """Returns the folder after writing config.json and one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: t.contiguous() for k, t in state(model, layout).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), **changes}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return folder


def save_processing(model, folder: Path) -> Path:
    """Returns the folder after writing its tokenizer and image processor."""
    small.tokenizer().save_pretrained(folder)
    side = model.config.vision_config.image_size
    fields = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": side, "width": side},
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a smooth random picture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
