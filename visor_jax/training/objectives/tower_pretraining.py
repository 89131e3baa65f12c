"""Pretrains the small vision tower of the embedded benchmark on coarse things only.

It stands in for SigLIP's pretraining: the tower learns colours, brightness and where
there is ink, from one vector per page (the mean token) and per patch. It never sees
which digit is where; reading is left to the decoder. Afterwards the tower is frozen.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from visor_jax.models.config import VisionConfig
from visor_jax.models.vision.siglip import VisionTower
from visor_jax.runtime import atomic_write
from visor_jax.runtime.kept_file import read_or_make

# On the host as they come out of training or the cache.
Params = PyTree[Array | np.ndarray]

# Outputs of the throw-away heads: classes of each attribute of the page.
PAGE_CLASSES = {"colour": 6, "dark_half": 4, "ring": 2, "squares": 2}
PATCH_TARGETS = ("luminance", "ink", "saturated")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """How long the tower trains; steps = 0 leaves it as it was initialised."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"Impossible tower settings: {self}.")


class TowerWithHeads(nn.Module):
    """The tower with linear heads for the page and for each patch."""

    config: VisionConfig

    def setup(self) -> None:
        self.vision_tower = VisionTower(self.config, jnp.dtype("float32"))
        self.page_heads = {name: nn.Dense(n) for name, n in PAGE_CLASSES.items()}
        self.patch_head = nn.Dense(len(PATCH_TARGETS))

    def __call__(
        self, crops: Float[Array, "B h w 3"]
    ) -> tuple[dict[str, Float[Array, "B classes"]], Float[Array, "B P 3"]]:
        """Returns the page's logits by attribute and three numbers for each patch."""
        features = self.vision_tower(crops)
        page = features.mean(axis=1)
        return {k: head(page) for k, head in self.page_heads.items()}, self.patch_head(
            features
        )


def tower_loss(model: TowerWithHeads, params: Params, batch: Any) -> Float[Array, ""]:
    """Returns the summed mean losses: classes of the page, targets of its patches."""
    page, patches = model.apply({"params": params}, batch.pixels[:, 0])
    total = jnp.zeros(())
    for name, logits in page.items():
        labels = getattr(batch, name).astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        total += losses.mean()
    total += jnp.mean(jnp.square(patches[..., 0] - batch.luminance)) * 10
    for i, name in enumerate(PATCH_TARGETS[1:], 1):
        labels = getattr(batch, name).astype(jnp.float32)
        total += optax.sigmoid_binary_cross_entropy(patches[..., i], labels).mean()
    return total


def pretrain_tower(
    config: VisionConfig,
    settings: TowerSettings,
    batches: Any,
    *,
    seed: int,
    progress: Callable[..., None],
) -> Params:
    """Returns the parameters of the trained tower (the heads are thrown away).

    Args:
      batches: iterator over `TowerBatch`es, at least `settings.steps` of them.
      progress: called as (steps done, loss=...) every 50 steps and at the end.
    """
    model = TowerWithHeads(config)
    shape = (1, config.image_size, config.image_size, 3)
    params = model.init(jax.random.key(seed), jnp.zeros(shape))["params"]
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, min(50, settings.steps), max(settings.steps, 51)
    )
    optimizer = optax.adamw(schedule, weight_decay=0.0)

    def step(params: Params, opt_state: Any, batch: Any):
        loss, grads = jax.value_and_grad(lambda p: tower_loss(model, p, batch))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    opt_state = optimizer.init(params)
    for done in range(1, settings.steps + 1):
        params, opt_state, loss = compiled(params, opt_state, next(batches))
        if done % 50 == 0 or done == settings.steps:
            progress(done, loss=float(loss))
    return jax.device_get(params["vision_tower"])


def cached_tower(
    directory: Path,
    config: VisionConfig,
    settings: TowerSettings,
    data_key: dict[str, Any],
    seed: int,
    train: Callable[[], Params],
    *,
    wait: Callable[[], None] = lambda: None,
) -> Params:
    """Returns the tower from the cache, or trains it while others wait for it.

    The file's name is a digest of all that determines the tower, so that runs with
    other settings never share one. A damaged file is trained anew.

    wait: called while another process trains it; may raise to stop waiting.
    """
    described = {
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "data": data_key,
        "seed": seed,
    }
    text = json.dumps(described, sort_keys=True).encode()
    file = directory / f"tower-{hashlib.sha256(text).hexdigest()[:16]}.msgpack"

    def read() -> Params | None:
        if not file.exists():
            return None
        return flax.serialization.msgpack_restore(file.read_bytes())

    def train_and_keep() -> Params:
        params = train()
        atomic_write.write_bytes(file, flax.serialization.msgpack_serialize(params))
        return params

    return read_or_make(file, read, train_and_keep, wait=wait)
