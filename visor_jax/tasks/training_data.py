"""What a run trains on: pages that are drawn, converted conversations, the tower.

Every part is a pure function of the settings, so a run that was killed in the middle of
one does it again and gets the same; drawn pages and the tower are cached.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain

from visor_jax.batch import Batch
from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.hf.backbones import backbone_of
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.data.conversations.mixture import read_mixture
from visor_jax.data.conversations.run_data import RunData, open_run_data
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.pages.pool.pool import PagePool, make_pool
from visor_jax.data.pages.pool.recipes import DIGIT_PAGES, Recipe
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.training_batches import Pools, train_iterator
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.settings import DataSettings
from visor_jax.runtime.interruption import Interruption, Stopped
from visor_jax.runtime.processes import first_process_first
from visor_jax.runtime.progress import Progress
from visor_jax.settings.run_settings import RunSettings

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Batches of a whole run (resumable), and one batch to learn their shapes from.

    batches: this process's rows of each. example: a whole one, the same everywhere.
    """

    batches: grain.DatasetIterator
    example: Batch


def open_conversations(
    settings: RunSettings,
    *,
    cache: Path,
    interruption: Interruption,
    stage: str = "measuring samples",
) -> RunData:
    """Returns the data of a run with the plan of its batches.

    Args:
      cache: folder for measured lengths and plans. stage: names this use among others
        of the program.

    Raises:
      ValueError: if the processor cannot be read, it does not fit the network, or the
        data cannot be used.
      Stopped: if asked to stop meanwhile.
    """
    data, longest = settings.data, settings.model.decoder.max_positions
    processor = _processor(settings)
    training = TrainingProcessor(
        chat=processor.prompts,
        supervision=data.supervision,
        max_length=min(data.max_length or longest, longest),
    )
    return conversation_data(
        data,
        training,
        pad_id=processor.pad_id,
        steps=settings.loop.steps,
        seed=settings.seed,
        cache=cache,
        interruption=interruption,
        stage=stage,
    )


def _processor(settings: RunSettings) -> Processor:
    source = None
    if settings.init_from is not None:
        source = newest_network(settings.init_from).source
    with _processor_folder(settings) as folder:
        processor = backbone_of(source).processor(
            settings.model, folder, source=source, template=settings.data.template
        )
    tokens, vocabulary = len(processor.tokenizer), settings.model.decoder.vocab_size
    if tokens > vocabulary:
        raise ValueError(
            f"The tokenizer has {tokens} tokens and the network {vocabulary}: they do "
            "not belong together."
        )
    return processor


@contextlib.contextmanager
def _processor_folder(settings: RunSettings) -> Iterator[Path]:
    """Yields the folder that the data section names, or that of `init_from`."""
    if settings.data.processor is not None:
        with workdir_files.local_processing_files(settings.data.processor) as folder:
            yield folder
        return
    # All steps of a workdir share the folder beside them.
    step = layout.find_steps(settings.init_from)[0]
    with workdir_files.local_processing_folder(step) as folder:
        yield folder


def page_pool(
    split: str,
    size: int,
    *,
    seed: int,
    cache: Path,
    interruption: Interruption,
    recipe: Recipe = DIGIT_PAGES,
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
            progress=watched(bar, interruption),
            recipe=recipe,
        )


def page_data(
    pools: Pools, settings: PageDataSettings, steps: int, rows: slice | None
) -> TrainingData:
    """Returns the questions about the pools' pages, packed into rows.

    rows: of every batch, those that this process loads; None for all.
    """
    return TrainingData(
        batches=train_iterator(pools, settings, steps=steps, rows=rows),
        example=next(train_iterator(pools, settings, steps=1, num_threads=0)),
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
    stage: str = "measuring samples",
) -> RunData:
    """Returns converted data with the plan of the run's batches.

    stage: see `open_conversations`.

    Raises:
      ValueError: as `open_run_data`.
      Stopped: if asked to stop meanwhile.
    """
    mixture = read_mixture(settings.path, seed=seed)
    # Each bar appears when its stage begins: what is in the cache needs none.
    bars = _Bars(interruption)
    with first_process_first(stage), bars:
        return open_run_data(
            settings,
            mixture,
            processor,
            pad_id=pad_id,
            steps=steps,
            seed=seed,
            cache=cache,
            progress=bars.stage("measuring samples", "samples"),
            planning=bars.stage("planning batches", "batches"),
        )


class _Bars(contextlib.ExitStack):
    """Progress of stages that follow one another, a bar at a time."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__()
        self._interruption = interruption

    def stage(self, description: str, unit: str) -> Callable[[int, int], None]:
        """Returns what a stage calls with (done, of how many)."""
        update = None

        def show(done: int, total: int) -> None:
            nonlocal update
            if update is None:
                self.close()
                bar = Progress(total, description=description, unit=unit)
                update = watched(self.enter_context(bar), self._interruption)
            update(done)

        return show


def check_wanted(interruption: Interruption) -> None:
    if interruption.requested:
        raise Stopped


def watched(bar: Progress, interruption: Interruption) -> Callable[..., None]:
    def update(done: int, _total: int = 0, **values: float) -> None:
        check_wanted(interruption)
        bar.update(done, **values)

    return update
