"""What a run needs before its first step: data, tower, and a state to begin with.

Every stage is a pure function of the settings, so a run that was killed in the middle
of one does it again and gets the same; drawn pages and the tower are cached.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.traverse_util
import grain
import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils

from visor_jax.batch import Batch
from visor_jax.data.conversations.mixture import read_mixture
from visor_jax.data.conversations.run_data import RunData, open_run_data
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.pages.pool.pool import PagePool, make_pool
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tower_batches import tower_batches
from visor_jax.data.pages.training_batches import train_iterator
from visor_jax.data.settings import DataSettings
from visor_jax.models.config import VisionConfig
from visor_jax.models.vlm import VLM
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.processes import first_process_first
from visor_jax.runtime.progress import Progress
from visor_jax.sharding.mesh import AnyMesh
from visor_jax.training.state import TrainState, state_shardings
from visor_jax.training.tower_stage import TowerSettings, cached_tower, pretrain_tower

Params = Any


class Stopped(Exception):
    """Asked to stop before there was anything to save."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Batches of a whole run (resumable), and one batch to learn their shapes from.

    batches: this process's rows of each. example: a whole one, the same everywhere.
    """

    batches: grain.DatasetIterator
    example: Batch


def page_pool(
    split: str, size: int, *, seed: int, cache: Path, interruption: Interruption
) -> PagePool:
    """Returns drawn pages of a split. Raises Stopped if asked to stop meanwhile.

    Of several processes the first draws and the others find them in the cache. Where
    they see another disk they draw the same ones.
    """
    with (
        first_process_first(f"drawing {split} pages"),
        Progress(size, description=f"drawing {split} pages", unit="pages") as bar,
    ):
        return make_pool(
            split,
            size,
            seed=seed,
            processes=min(2, os.cpu_count() or 1),
            cache_dir=cache,
            progress=_watched(bar, interruption),
        )


def page_data(
    pool: PagePool, settings: PageDataSettings, steps: int, rows: slice | None
) -> TrainingData:
    """Returns the questions about the pool's pages, packed into rows.

    rows: of every batch, those that this process loads; None for all.
    """
    return TrainingData(
        batches=train_iterator(pool, settings, steps=steps, rows=rows),
        example=next(train_iterator(pool, settings, steps=1, num_threads=0)),
    )


def conversation_data(
    settings: DataSettings,
    processor: TrainingProcessor,
    *,
    pad_id: int,
    steps: int,
    seed: int,
    cache: Path,
    interruption: Interruption,
) -> RunData:
    """Returns converted data with the plan of the run's batches.

    Raises:
      ValueError: as `open_run_data`.
      Stopped: if asked to stop meanwhile.
    """
    mixture = read_mixture(settings.path, seed=seed)
    samples = sum(entry.manifest.samples for entry in mixture)
    with (
        first_process_first("measuring samples"),
        Progress(samples, description="measuring samples", unit="samples") as bar,
    ):
        return open_run_data(
            settings,
            mixture,
            processor,
            pad_id=pad_id,
            steps=steps,
            seed=seed,
            cache=cache,
            progress=_watched(bar, interruption),
        )


def pretrained_tower(
    pool: PagePool,
    config: VisionConfig,
    settings: TowerSettings,
    *,
    seed: int,
    cache: Path,
    interruption: Interruption,
) -> Any:
    """Returns the tower's parameters. Raises Stopped if asked to stop meanwhile.

    Of several processes the first trains and the others get its result, bit by bit.
    """

    def train() -> Any:
        batches = tower_batches(
            pool, batch_size=settings.batch_size, steps=settings.steps, seed=seed
        )
        with Progress(settings.steps, description="tower step") as bar:
            progress = _watched(bar, interruption)
            return pretrain_tower(
                config, settings, batches, seed=seed, progress=progress
            )

    drawn_from = {"pool_size": len(pool), "seed": seed}
    with first_process_first("training the tower"):
        tower = cached_tower(cache, config, settings, drawn_from, seed, train)
    # Without a common disk each has trained its own, on what may be another processor.
    return multihost_utils.broadcast_one_to_all(tower)


def fresh_state(
    model: VLM,
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...],
    batch: Batch,
    *,
    seed: int,
    num_budgets: int,
) -> TrainState:
    """Returns the state before the first step, a pure function of the seed."""
    gates = (True,) * len(model.config.plan.self_layers)
    init = functools.partial(model.init, reading=bool(model.config.reading_layers))
    # Parameters depend on shapes alone; pictures would be constants of the program.
    blank = batch.map(lambda x: jnp.zeros(x.shape, x.dtype))
    params = init(jax.random.key(seed), blank, gates)["params"]
    return TrainState.create(
        params, optimizer, frozen, seed=seed, num_budgets=num_budgets
    )


def abstract_state(
    create: Callable[[], TrainState],
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...],
    mesh: AnyMesh,
) -> TrainState:
    """Returns shapes, dtypes and shardings of what `create()` would make.

    Raises:
      ValueError: if a parameter cannot be split over the mesh.
    """
    abstract = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        state_shardings(abstract, optimizer, frozen, mesh),
    )


def shardings_of(state: TrainState) -> TrainState:
    """Returns the shardings of a state, abstract or not."""
    return jax.tree.map(lambda x: x.sharding, state)


def first_state(
    create: Callable[[], TrainState], abstract: TrainState, given: Params
) -> TrainState:
    """Returns `create()` placed as `abstract` says, with the given parameters put in.

    given: a tree with some of the parameters; {} for none.
    """
    shardings = shardings_of(abstract)
    state = jax.jit(create, out_shardings=shardings)()
    flat = flax.traverse_util.flatten_dict(state.params, sep="/")
    places = flax.traverse_util.flatten_dict(shardings.params, sep="/")
    for path, value in flax.traverse_util.flatten_dict(given, sep="/").items():
        flat[path] = jax.device_put(value, places[path])
    return state.replace(params=flax.traverse_util.unflatten_dict(flat, sep="/"))


def _watched(bar: Progress, interruption: Interruption) -> Callable[..., None]:
    def update(done: int, _total: int = 0, **values: float) -> None:
        if interruption.requested:
            raise Stopped
        bar.update(done, **values)

    return update
