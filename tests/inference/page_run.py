"""A checkpoint of a tiny network that reads pages, as a training run leaves it."""

import functools
from pathlib import Path

import jax
import numpy as np

from tests.data.pages.prompt_batch import prompt_batch
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.vlm import VLM

CONFIG = VLMConfig(
    vision=VisionConfig(
        width=8, mlp_width=8, num_layers=1, num_heads=1, image_size=96, patch_size=8
    ),
    decoder=DecoderConfig(
        vocab_size=64,
        width=16,
        mlp_width=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        rope_theta=1e4,
    ),
    adapter=AdapterConfig(num_kv_heads=2),
    plan=LayerPlan.build(3, cross=(0,), self_=(1, 2)),
    image_newline=False,
    grid_embedding=True,
    reading_layers=(1,),
)
# "all" is among them, sa1:2 is not.
BUDGETS = ("sa0", "sa1:1", "sa2:1,2")
METADATA = {
    "model": CONFIG.to_dict(),
    "budgets": list(BUDGETS),
    "task": "universal",
    "metrics_offset": 0,
    "label": "universal",
    "preset": "tiny",
    "seed": 3,
}


def page(seed: int = 0) -> np.ndarray:
    """Returns random pixels, (96, 96, 3) uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (96, 96, 3), np.uint8)


def parameters() -> dict:
    """Returns random values for all parameters, the reading loss's among them."""
    batch = prompt_batch(page()[None], ["ring"])
    gates = (True,) * len(CONFIG.plan.self_layers)
    init = functools.partial(VLM(CONFIG).init, gates=gates, reading=True)
    shapes = jax.eval_shape(init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes
    )


def save(workdir: Path, params: dict, step: int = 7, **metadata: object) -> Path:
    """Returns the workdir, which now holds a checkpoint at this step."""
    with CheckpointManager(workdir, save_every=1) as manager:
        manager.save(
            step,
            params=params,
            optimizer={"step": np.int32(step)},
            data_iterator=None,
            metadata={**METADATA, **metadata},
        )
    return workdir
