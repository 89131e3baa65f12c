"""The batches of a run, read from disk by plan; resumable as a grain iterator.

Batch i is a pure function of (data, plan, i): threads, worker processes and restarts
change nothing. The iterator's state is the number of batches that were taken, and the
digest of the plan, so that a run never goes on with other data by mistake.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.buckets import Buckets
from visor_jax.data.conversations.batch_plan import BatchPlan
from visor_jax.data.conversations.conversation_set import (
    ConversationSet,
    DamagedRecordError,
)
from visor_jax.data.conversations.crop_draw import CropDraw
from visor_jax.data.conversations.mirror_draw import MirrorDraw
from visor_jax.data.conversations.mixture import MixtureEntry
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.prompts.row_packing import empty_row, packed
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout

_logger = logging.getLogger(__name__)

ALL_ROWS = slice(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """Who reads batches, how far ahead, and what damage is borne.

    workers: processes that read; 0 for threads of this one. threads: of every reader.
    prefetch: batches that are ready ahead, of every reader. max_bad_records: samples
    that may turn out damaged in the whole run; each is left out of its row.
    """

    workers: int = 0
    threads: int = 2
    prefetch: int = 4
    max_bad_records: int = 0

    def __post_init__(self) -> None:
        negative = {k: v for k, v in dataclasses.asdict(self).items() if v < 0}
        if negative or self.prefetch < 1 or self.threads < 1:
            raise ValueError(
                f"{self}: counts must not be negative, threads and prefetch at least 1."
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MixedSamples:
    """The samples of a mixture, numbered through all of its entries."""

    sets: tuple[ConversationSet, ...]
    rows: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, mixture: Sequence[MixtureEntry]) -> "MixedSamples":
        sets = tuple(ConversationSet(entry.manifest) for entry in mixture)
        return cls(sets=sets, rows=tuple(entry.rows for entry in mixture))

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def find(self, number: int) -> tuple[ConversationSet, int]:
        """Returns the data set of a sample, and its row there."""
        for each, rows in zip(self.sets, self.rows, strict=True):
            if number < len(rows):
                return each, int(rows[number])
            number -= len(rows)
        raise IndexError(f"There are only {len(self)} samples.")


class BatchSource:
    """Random access to the batches of a plan: element i is a batch and its damage."""

    def __init__(
        self,
        samples: MixedSamples,
        plan: BatchPlan,
        processor: TrainingProcessor,
        buckets: Buckets,
        *,
        rows: slice = ALL_ROWS,
        draw: CropDraw | None = None,
        has_one_image: np.ndarray | None = None,
        mirrors: MirrorDraw | None = None,
    ) -> None:
        """Takes what batches are made of.

        Args:
          rows: of every batch, those that this process of a run reads.
          draw: of the crops that a step looks at; None for all of them.
          has_one_image: of every sample, whether it has one image or none; where a step
            has another all of its crops are looked at. Needed with a draw.
          mirrors: draws whose pictures are mirrored; None for nobody's.
        """
        self._samples, self._plan = samples, plan
        self._processor, self._buckets = processor, buckets
        self._rows, self._draw = rows, draw
        self._has_one_image, self._mirrors = has_one_image, mirrors

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        damaged: list[str] = []
        planned, bucket = self._plan.rows(index), self._plan.bucket(index)
        numbers = range(len(planned))[self._rows]
        rows = [
            self._read(
                planned[number].tolist(),
                damaged,
                mirrored=self._mirrors is not None
                and self._mirrors.is_mirrored(index, number),
            )
            for number in numbers
        ]
        if self._draw is None:
            return {"batch": self._buckets.batch(rows, bucket), "damaged": damaged}
        # By the plan, so that all processes of a run make batches of one shape.
        if all(self._has_one_image[row].all() for row in planned):
            bucket = self._draw.bucket(index, bucket)
            rows = [
                self._draw.sample(index, number, row, bucket.crops)
                for number, row in zip(numbers, rows, strict=True)
            ]
        batch = self._buckets.batch(rows, bucket, places=True)
        return {"batch": batch, "damaged": damaged}

    def _read(
        self, numbers: Sequence[int], damaged: list[str], *, mirrored: bool
    ) -> Sample:
        """Returns a row without what is damaged; names that."""
        first: Sample | None = None
        others: list[Layout] = []
        for number in numbers:
            data, row = self._samples.find(number)
            try:
                if first is None:
                    raw = data.sample(row)
                    first = self._processor.sample(raw, mirrored=mirrored)
                else:
                    # The same image, or none: its pixels are there already.
                    others.append(self._processor.layout(data.conversation(row)))
            except DamagedRecordError as error:
                damaged.append(str(error))
            except ValueError as error:
                damaged.append(f"{data.place(row)} cannot be used: {error}")
        if first is None:
            return empty_row(self._buckets.crop_size)
        return packed(first, others)


class TrainingBatches(grain.DatasetIterator):
    """Iterator over the `Batch`es (NumPy) of a run, from any place on."""

    def __init__(
        self, source: BatchSource, digest: str, settings: ReadingSettings
    ) -> None:
        """Reads nothing yet. `digest`: of everything that the batches depend on."""
        super().__init__()
        self._source, self._digest, self._settings = source, digest, settings
        self._next = self._bad = 0
        self._reading: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
          DamagedRecordError: if more samples are damaged than may be.
        """
        if self._reading is None:
            self._reading = self._from(self._next)
        loaded = next(self._reading)
        for each in loaded["damaged"]:
            self._bad += 1
            allowed = self._settings.max_bad_records
            if self._bad > allowed:
                raise DamagedRecordError(
                    f"Batch {self._next}: {each}. Restore the file, or let the run "
                    f"leave such samples out: data.max_bad_records is {allowed}."
                )
            _logger.warning("batch %d: left out: %s", self._next, each)
        self._next += 1
        return loaded["batch"]

    def get_state(self) -> dict[str, Any]:
        """Returns the place: of the plan, not of what was read ahead."""
        return {
            "plan": self._digest,
            "next_index": self._next,
            "bad_records": self._bad,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place.

        Raises:
          ValueError: if it is a place in other data.
        """
        if state.get("plan") != self._digest:
            raise ValueError(
                "The checkpoint was saved in the middle of other data: the data sets, "
                "the tokenizer, the image settings or the buckets have changed. Go on "
                "with what the run began with, or begin another run with its weights "
                "(--config.init_from)."
            )
        self._stop_reading()
        self._next, self._bad = state["next_index"], state["bad_records"]

    def close(self) -> None:
        """Stops threads and worker processes."""
        self._stop_reading()
        super().close()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _from(self, start: int) -> grain.DatasetIterator:
        settings = self._settings
        batches = grain.MapDataset.source(self._source)[start:].to_iter_dataset(
            grain.ReadOptions(
                num_threads=settings.threads, prefetch_buffer_size=settings.prefetch
            )
        )
        if settings.workers:
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=settings.workers,
                    per_worker_buffer_size=settings.prefetch,
                )
            )
        return iter(batches)


def plan_digest(facts: dict[str, Any]) -> str:
    """Returns a digest of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
