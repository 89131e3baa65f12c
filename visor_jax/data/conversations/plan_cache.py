"""The plan of a run, made once and kept on disk: at every start it would be the same.

The file's name is a digest of all that the plan depends on, so that one of other data,
buckets or settings is never read:

    <cache>/plan-<digest>.npz
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from visor_jax.data.buckets import Bucket
from visor_jax.data.conversations.batch_plan import (
    BatchPlan,
    PlanSettings,
    UsableSamples,
    plan_batches,
)
from visor_jax.data.conversations.length_index import LengthIndex
from visor_jax.runtime import atomic_write
from visor_jax.runtime.kept_file import read_or_make

# Raised whenever the same lengths, buckets and settings would give another plan.
_VERSION = 1
_NAMED = 16
_ARRAYS = ("bucket_of", "row_ends", "samples")


def cached_plan(
    lengths: LengthIndex,
    usable: UsableSamples,
    buckets: Sequence[Bucket],
    settings: PlanSettings,
    *,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchPlan:
    """Returns the plan of a run, from the cache if it is there.

    Args:
      cache: folder of the file; made if it is not there.
      progress: called with the batches planned and the batches in all, and with none
        while another process plans the same; may raise to stop.

    Raises:
      OSError: if it is not there and cannot be written.
    """
    file = cache / f"plan-{_digest(lengths, usable, buckets, settings)[:_NAMED]}.npz"

    def plan_and_keep() -> BatchPlan:
        plan = plan_batches(lengths, usable, buckets, settings, progress=progress)
        arrays = {name: _small(getattr(plan, name)) for name in _ARRAYS}
        atomic_write.write_file(file, lambda stream: np.savez(stream, **arrays))
        return plan

    return read_or_make(
        file,
        lambda: _load(file, usable, buckets, settings),
        plan_and_keep,
        wait=lambda: progress(0, settings.steps),
    )


def _digest(
    lengths: LengthIndex,
    usable: UsableSamples,
    buckets: Sequence[Bucket],
    settings: PlanSettings,
) -> str:
    facts = {
        "version": _VERSION,
        "buckets": [bucket.lengths() for bucket in buckets],
        "settings": dataclasses.asdict(settings),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    arrays = {f.name: getattr(lengths, f.name) for f in dataclasses.fields(lengths)}
    del arrays["refused"]  # They have no text that could be used.
    arrays |= {"usable text": usable.text, "usable bucket": usable.bucket_of}
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8))
    return digest.hexdigest()


def _small(values: np.ndarray) -> np.ndarray:
    """Returns the values in half the bytes, where they fit."""
    fits = not len(values) or values.max() <= np.iinfo(np.int32).max
    return values.astype(np.int32) if fits else values


def _load(
    file: Path,
    usable: UsableSamples,
    buckets: Sequence[Bucket],
    settings: PlanSettings,
) -> BatchPlan | None:
    """Returns what was planned before, None if there is nothing.

    Raises:
      Exception: of whatever kind, if it is damaged.
    """
    if not file.is_file():
        return None
    with np.load(file) as content:
        found = {name: content[name].astype(np.int64) for name in _ARRAYS}
    bucket_of, row_ends, samples = found.values()
    rows = settings.steps * settings.batch_size
    if (len(bucket_of), len(row_ends)) != (settings.steps, rows) or (
        row_ends[-1] != len(samples)
    ):
        raise ValueError("it is of another run")
    return BatchPlan.of(usable, buckets, settings, **found)
