"""A small converted data set, and what is needed to train a tiny network on it."""

import dataclasses
from pathlib import Path
from typing import Any

from tests import tiny
from tests.data import tiny_llava
from tests.data.conversations.llava_set import write_set
from visor_jax.data.conversations.converting.conversion import (
    ConversionSettings,
    convert,
)
from visor_jax.data.conversations.mixture import read_mixture
from visor_jax.data.conversations.run_data import RunData, open_run_data
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.settings import DataSettings
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import VLMConfig

TILE = 28
STEPS = 30
PAD_ID = tiny_llava.PAD

# One conditional, one adapter, one layer of the tower; a vocabulary of bytes.
NETWORK: VLMConfig = tiny.VISOR.replace(
    vision=dataclasses.replace(
        tiny.VISION, image_size=TILE, patch_size=14, num_layers=1
    ),
    decoder=dataclasses.replace(tiny.DECODER, vocab_size=264, max_positions=512),
    plan=LayerPlan.build(2, cross=(1,), self_=(0,)),
)


def image_settings() -> ImageSettings:
    return tiny_llava.image_settings(tile=TILE, patch=14)


def make_processor(
    max_length: int = 512, supervision: str = "assistant"
) -> TrainingProcessor:
    """Returns the processor of a network with a vocabulary of bytes."""
    return TrainingProcessor(
        chat=ChatProcessor(tokenizer=tiny_llava.tokenizer(), images=image_settings()),
        supervision=supervision,
        max_length=max_length,
    )


def data_settings(path: Path, **changes: Any) -> DataSettings:
    """Returns settings with few short shapes."""
    fields = {
        "kind": "conversations",
        "path": str(path),
        "batch_size": 4,
        "text_lengths": (160, 512),
        "max_images": 2,
        "supervision": "assistant",
    }
    return DataSettings(**fields | changes)


def save_processor(folder: Path) -> Path:
    """Returns the folder with the files of tokenizer and image processor in it."""
    tiny_llava.tokenizer().save_pretrained(folder)
    tiny_llava.hf_image_processor(image_settings()).save_pretrained(folder)
    return folder


def draw(folder: Path, count: int = 80, **how: Any) -> Path:
    """Returns the folder of a drawn and converted data set without broken entries."""
    write_set(folder, count, broken=False, **how)
    source = ConversionSettings(
        sources=(str(folder / "train.json"),),
        image_folder=str(folder / "images"),
        rows_per_shard=30,
    )
    convert(source, folder / "converted")
    return folder / "converted"


def opened(
    path: Path,
    cache: Path,
    *,
    processor: TrainingProcessor | None = None,
    seed: int = 0,
    steps: int = STEPS,
    **changes: Any,
) -> RunData:
    """Returns the data of a run, with changes to `data_settings`."""
    return open_run_data(
        data_settings(path, **changes),
        read_mixture(path, seed=seed),
        make_processor() if processor is None else processor,
        pad_id=PAD_ID,
        steps=steps,
        seed=seed,
        cache=cache,
    )


def damage(file: Path) -> None:
    """Overwrites the middle of a file with zeros."""
    content = bytearray(file.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    file.write_bytes(content)
