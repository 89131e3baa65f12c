"""Pretrains a small vision tower that begins with nothing; it stands in for SigLIP's.

What it is asked is the objective's: `page_tower` for drawn pages, `answer_tower` for
pictures with questions. The heads that it needs for that are thrown away.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from visor_jax.models.config import VisionConfig
from visor_jax.runtime import atomic_write
from visor_jax.runtime.kept_file import read_or_make

# On the host as they come out of training or the cache.
Params = PyTree[Array | np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """How long the tower trains; steps = 0 leaves it as it was initialised."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"Impossible tower settings: {self}.")


def pretrain_tower(
    objective: nn.Module,
    settings: TowerSettings,
    batches: Iterator[Any],
    *,
    seed: int,
    progress: Callable[..., None],
) -> Params:
    """Returns the parameters of the trained tower.

    Args:
      objective: called with a batch gives the loss; its tower is `vision_tower`. What
        it counts beside its parameters is kept from step to step.
      batches: at least `settings.steps` of them.
      progress: called as (steps done, loss=...) every 50 steps and at the end.
    """
    first = next(batches)
    counts = objective.init(jax.random.key(seed), jax.device_put(first))
    params = counts.pop("params")
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, min(50, settings.steps), max(settings.steps, 51)
    )
    optimizer = optax.adamw(schedule, weight_decay=0.0)

    def step(params: Params, counts: Any, opt_state: Any, batch: Any):
        def loss_of(params: Params):
            variables = {"params": params, **counts}
            return objective.apply(variables, batch, mutable=list(counts))

        (loss, counts), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), counts, opt_state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    opt_state = optimizer.init(params)
    batches = itertools.islice(itertools.chain([first], batches), settings.steps)
    for done, batch in enumerate(batches, 1):
        state = params, counts, opt_state
        params, counts, opt_state, loss = compiled(*state, batch)
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
