"""Everything that a run reads: samples, plan, batches, and what there is to say of it.

mixture = read_mixture(settings.path, seed=0)
data = open_run_data(settings, mixture, processor, pad_id=..., steps=..., seed=0, ...)
batches = data.batches()
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visor_jax.batch import Batch
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.conversations.batch_plan import (
    NO_BUCKET,
    BatchPlan,
    PlanSettings,
    usable_samples,
)
from visor_jax.data.conversations.crop_draw import CropDraw
from visor_jax.data.conversations.length_index import LengthIndex, mixture_lengths
from visor_jax.data.conversations.mirror_draw import MirrorDraw
from visor_jax.data.conversations.mixture import MixtureEntry
from visor_jax.data.conversations.plan_cache import cached_plan
from visor_jax.data.conversations.training_batches import (
    ALL_ROWS,
    BatchSource,
    MixedSamples,
    ReadingSettings,
    TrainingBatches,
    plan_digest,
)
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.settings import DataSettings

_logger = logging.getLogger(__name__)
# Settings by which a step sees something else of the same images.
_DRAWS = ("any_crops", "mirrors")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """The data of one run.

    digest: of everything that the batches depend on, but for how many there are. seed:
    of what is drawn for every batch.
    """

    settings: DataSettings
    mixture: tuple[MixtureEntry, ...]
    samples: MixedSamples
    lengths: LengthIndex
    processor: TrainingProcessor
    buckets: Buckets
    plan: BatchPlan
    digest: str
    seed: int = 0

    def source(self, rows: slice = ALL_ROWS) -> BatchSource:
        """Returns random access to the batches, or to some rows of each."""
        has_one_image = (self.lengths.group != 0) | (self.lengths.crops == 0)
        draw = CropDraw(images=self.processor.chat.images, seed=self.seed)
        return BatchSource(
            *(self.samples, self.plan, self.processor, self.buckets),
            rows=rows,
            draw=draw if self.settings.any_crops else None,
            has_one_image=has_one_image,
            mirrors=MirrorDraw(seed=self.seed) if self.settings.mirrors else None,
        )

    def batches(
        self, reading: ReadingSettings | None = None, *, rows: slice = ALL_ROWS
    ) -> TrainingBatches:
        """Returns the resumable iterator over the batches.

        Args:
          reading: None for that of the settings; it does not change what is read.
          rows: of every batch, those that this process of the run reads.
        """
        reading = self.settings.reading() if reading is None else reading
        return TrainingBatches(self.source(rows), self.digest, reading)

    def example(self) -> Batch:
        """Returns the first batch of the plan, to learn shapes from."""
        return self.source()[0]["batch"]

    def bucket_of(self, number: int) -> Bucket | None:
        """Returns the bucket of a sample by itself, None if the plan drops it."""
        chosen = self.plan.bucket_of_sample[number]
        return None if chosen == NO_BUCKET else self.plan.buckets[chosen]

    def record(self) -> dict[str, Any]:
        """Returns what was planned as JSON values, for the run's record."""
        by_bucket = self.plan.batches_of_buckets()
        return {
            "plan": self.digest,
            "sets": [
                {
                    "path": str(entry.manifest.directory),
                    "checksum": entry.manifest.checksum,
                    "sampling_strategy": entry.strategy,
                    "samples": len(entry.rows),
                    "of": entry.manifest.samples,
                }
                for entry in self.mixture
            ],
            "samples": len(self.lengths),
            "dropped": self.plan.dropped,
            "batches": [
                {**bucket.lengths(), "batches": count}
                for bucket, count in by_bucket.items()
            ],
        }


def open_run_data(
    settings: DataSettings,
    mixture: tuple[MixtureEntry, ...],
    processor: TrainingProcessor,
    *,
    pad_id: int,
    steps: int,
    seed: int,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    planning: Callable[[int, int], None] = lambda done, total: None,
) -> RunData:
    """Returns the data of a run after measuring and planning; logs what is dropped.

    Args:
      cache: folder for measured lengths and plans.
      progress: called with the samples measured and the samples in all.
      planning: called with the batches planned and the batches in all.

    Raises:
      ValueError: if none of the samples can be used, or more are left out than
        `settings.max_left_out`.
    """
    lengths = mixture_lengths(
        mixture,
        processor,
        cache=cache,
        workers=settings.workers,
        progress=progress,
    )
    buckets = _buckets(settings, processor, pad_id)
    plan_settings = _plan_settings(settings, processor, steps, seed)
    usable = usable_samples(lengths, buckets.all, plan_settings)
    usable.check_enough(settings.max_left_out)
    plan = cached_plan(
        lengths, usable, buckets.all, plan_settings, cache=cache, progress=planning
    )
    _report(plan, lengths)
    return RunData(
        settings=settings,
        mixture=mixture,
        samples=MixedSamples.of(mixture),
        lengths=lengths,
        processor=processor,
        buckets=buckets,
        plan=plan,
        digest=_digest(
            mixture,
            processor.digest(special_text=bool(lengths.special_text.any())),
            buckets,
            plan_settings,
            draws=[name for name in _DRAWS if getattr(settings, name)],
        ),
        seed=seed,
    )


def _buckets(
    settings: DataSettings, processor: TrainingProcessor, pad_id: int
) -> Buckets:
    return Buckets.ladder(
        processor.chat.images,
        pad_id=pad_id,
        text_tokens=settings.text_lengths,
        max_images=settings.max_images,
        max_frames=0,
    )


def _plan_settings(
    settings: DataSettings, processor: TrainingProcessor, steps: int, seed: int
) -> PlanSettings:
    return PlanSettings(
        batch_size=settings.batch_size,
        steps=steps,
        seed=seed,
        max_length=processor.max_length,
        too_long=settings.too_long,
        pack=settings.pack,
    )


def _digest(
    mixture: tuple[MixtureEntry, ...],
    processor: str,
    buckets: Buckets,
    plan_settings: PlanSettings,
    *,
    draws: Sequence[str],
) -> str:
    """Returns a digest of all that decides which batch stands where."""
    decides = dataclasses.asdict(plan_settings)
    # Runs without are what they were.
    decides |= dict.fromkeys(draws, True)
    # How many batches there are changes none of them.
    del decides["steps"]
    return plan_digest(
        {
            "sets": [[e.manifest.checksum, e.strategy] for e in mixture],
            "processor": processor,
            "pad": buckets.pad_id,
            "buckets": [bucket.lengths() for bucket in buckets.all],
            **decides,
        }
    )


def _report(plan: BatchPlan, lengths: LengthIndex) -> None:
    used = len(lengths) - sum(plan.dropped.values())
    shapes = plan.batches_of_buckets()
    _logger.info(
        "%d of %d samples are used, in batches of %d shapes",
        used,
        len(lengths),
        len(shapes),
    )
    for why, count in plan.dropped.items():
        _logger.warning("%d samples are left out: %s", count, why)
    if lengths.refused:
        row, why = next(iter(lengths.refused.items()))
        _logger.warning("the first that is refused, sample %d: %s", row, why)
