"""A tiny LLaVA-OneVision as a folder of Hugging Face, made without PyTorch.

Its parameters are those of `tests.data.prompts.prompt_cases`, whose logits and answers
transformers has computed.
"""

import json
from pathlib import Path

from tests.data import tiny_llava
from tests.data.prompts import prompt_cases
from tests.parity.test_llava_onevision import our_config
from visor_jax.checkpoints.workdir_files import write_step_0
from visor_jax.convert.__main__ import export_checkpoint
from visor_jax.models.config import VLMConfig


def config(tile: int) -> VLMConfig:
    return our_config(tied=prompt_cases.is_tied(tile), side=tile)


def source(tile: int) -> dict:
    """Returns what config.json says beside the sizes."""
    settings = tiny_llava.image_settings(tile)
    return {
        "model_type": "llava_onevision",
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_token_index": tiny_llava.IMAGE,
        "video_token_index": tiny_llava.VIDEO,
        "image_grid_pinpoints": [list(point) for point in settings.pinpoints],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def save(folder: Path, tile: int, budgets: tuple[str, ...] = ("all",)) -> Path:
    """Returns the folder: weights, configuration, tokenizer and processor.

    The workdir that it was exported from, with these budgets, lies beside it.
    """
    metadata = {
        "model": config(tile).to_dict(),
        "budgets": list(budgets),
        "task": "import",
        "label": "tiny",
        "metrics_offset": 0,
        "source": {"config": source(tile)},
    }
    workdir = folder / "workdir"
    write_step_0(workdir, prompt_cases.parameters(tile, sharp=True), metadata)
    tiny_llava.tokenizer().save_pretrained(workdir / "tokenizer")
    settings = tiny_llava.image_settings(tile)
    processor = {
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
        "size": {"height": tile, "width": tile},
        "image_grid_pinpoints": [list(point) for point in settings.pinpoints],
    }
    file = workdir / "tokenizer/preprocessor_config.json"
    file.write_text(json.dumps(processor))
    export_checkpoint(workdir, folder / "hf")
    return folder / "hf"
