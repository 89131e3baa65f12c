"""What a vision tower is pretrained on before the run: drawn pages, or answers.

A pure function of the settings; the result is cached, so that runs share it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jax.experimental import multihost_utils

from visor_jax.data.conversations.planned_rows import NO_BUCKET
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.tower_batches import tower_batches
from visor_jax.models.config import VisionConfig
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.processes import first_process_first
from visor_jax.runtime.progress import Progress
from visor_jax.settings.run_settings import UniversalSettings
from visor_jax.tasks.training_data import check_wanted, open_conversations, watched
from visor_jax.training.objectives.answer_tower import AnswerTower
from visor_jax.training.objectives.page_tower import PageTower
from visor_jax.training.objectives.tower_pretraining import (
    TowerSettings,
    cached_tower,
    pretrain_tower,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerData:
    """What a tower is pretrained on.

    objective: what it is asked (`pretrain_tower`). batches: begins them. facts: what
    decides which they are, as JSON values.
    """

    objective: nn.Module
    batches: Callable[[], Iterator[Any]]
    facts: dict[str, Any]


def tower_on_pages(
    pool: PagePool, config: VisionConfig, settings: TowerSettings, *, seed: int
) -> TowerData:
    """Returns drawn pages with coarse labels."""
    size = {"batch_size": settings.batch_size, "steps": settings.steps}
    return TowerData(
        objective=PageTower(config),
        batches=lambda: tower_batches(pool, **size, seed=seed),
        facts={"pool_size": len(pool), "seed": seed},
    )


def tower_on_answers(
    settings: UniversalSettings, *, cache: Path, interruption: Interruption
) -> TowerData:
    """Returns a run's pictures with the answers to what is asked about them.

    Raises:
      ValueError: if samples have several pictures, and as `open_conversations`.
      Stopped: if asked to stop meanwhile.
    """
    tower, data = settings.tower, settings.data
    assert tower is not None
    whole = {"batch_size": tower.batch_size, "any_crops": False}
    asked = dataclasses.replace(
        settings,
        data=dataclasses.replace(data, **whole),
        loop=dataclasses.replace(settings.loop, steps=tower.steps),
    )
    opened = open_conversations(
        asked, cache=cache, interruption=interruption, stage="what the tower is asked"
    )
    _check_one_picture(opened)
    model = settings.model
    return TowerData(
        objective=AnswerTower(model.vision, model.decoder.vocab_size),
        batches=opened.batches,
        facts={"plan": opened.digest, "vocabulary": model.decoder.vocab_size},
    )


def _check_one_picture(data: RunData) -> None:
    """Raises ValueError for samples with several pictures; one is looked at."""
    lengths, is_used = data.lengths, data.plan.bucket_of_sample != NO_BUCKET
    several = int(np.sum(is_used & (lengths.crops > 0) & (lengths.group == 0)))
    if several:
        raise ValueError(
            "The tower is pretrained on what is asked about one picture, and "
            f"{several} samples have several: leave them out of the data, or set "
            "tower.steps to 0."
        )


def pretrained_tower(
    data: TowerData,
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
        with (
            contextlib.closing(data.batches()) as batches,
            Progress(settings.steps, description="tower step") as bar,
        ):
            return pretrain_tower(
                data.objective,
                settings,
                batches,
                seed=seed,
                progress=watched(bar, interruption),
            )

    with first_process_first("training the tower"):
        tower = cached_tower(
            cache,
            config,
            settings,
            data.facts,
            seed,
            train,
            wait=lambda: check_wanted(interruption),
        )
    # Without a common disk each has trained its own, on what may be another processor.
    return multihost_utils.broadcast_one_to_all(tower)
