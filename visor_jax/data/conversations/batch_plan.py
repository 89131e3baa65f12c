"""Which samples stand in which batch of a run: decided before the first step.

Every epoch is another shuffle of all samples. They wait in the queue of the smallest
bucket that holds them; a queue that has a batch's worth of rows is the next batch:

    shuffled    a  b  T1 c  T2 d  e  ...            T: text alone
    bucket 1    a     c     d            -> batch 0: a c d
    bucket 2       b           e  ...    -> batch 1: b e ...
    text        [T1 T2 ...]                 several to a row (`planned_rows`)

What is left in the queues goes on into the next epoch, so no sample is lost there. The
plan is a pure function of the lengths, the buckets and the seed; a longer run begins
with the same batches.
"""

import dataclasses
from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from visor_jax.data.buckets import Bucket
from visor_jax.data.conversations.length_index import LengthIndex
from visor_jax.data.conversations.planned_rows import NO_BUCKET, Row, planned_rows

# Batches between two reports of progress.
_REPORTED = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How batches are made of samples.

    steps: batches of the run. too_long: what happens to samples beyond max_length text
    and image tokens: "drop", or "truncate" as LLaVA does (dropped all the same if an
    image would be cut, or nothing is left to train). pack: whether samples of text
    alone, and samples about one image, share rows.
    """

    batch_size: int
    steps: int
    seed: int
    max_length: int
    too_long: str = "drop"
    pack: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class UsableSamples:
    """The samples that take part in a run.

    text: tokens that are used of each, 0 of those that are left out. bucket_of: the
    smallest bucket that holds each by itself, NO_BUCKET for those that are left out.
    dropped: {why: how many} of those.
    """

    text: Int[np.ndarray, "n"]
    bucket_of: Int[np.ndarray, "n"]
    dropped: dict[str, int]

    def check_enough(self, largest_share: float) -> None:
        """Raises ValueError if more of the samples are left out than this share."""
        left_out, count = sum(self.dropped.values()), len(self.text)
        if left_out <= largest_share * count:
            return
        reasons = ", ".join(f"{n} {why}" for why, n in self.dropped.items())
        raise ValueError(
            f"{left_out} of {count} samples would be left out ({reasons}), more than "
            f"data.max_left_out={largest_share:g} of them: give the run a larger "
            "data.max_length, data.text_lengths or data.max_images, or mend the data; "
            "if the rest is what you want, --config.data.max_left_out=1."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class BatchPlan:
    """The batches of a run.

    buckets: those that occur are indices into these. bucket_of: of every batch.
    row_ends: (steps * batch_size,) where each row ends in `samples`, the numbers of the
    samples row by row. bucket_of_sample: the smallest that holds each sample of the
    run, NO_BUCKET for those that are dropped. dropped: {why: how many}.
    """

    buckets: tuple[Bucket, ...]
    batch_size: int
    bucket_of: Int[np.ndarray, "steps"]
    row_ends: Int[np.ndarray, "m"]
    samples: Int[np.ndarray, "n"]
    bucket_of_sample: Int[np.ndarray, "all"]
    dropped: dict[str, int]

    @classmethod
    def of(
        cls,
        usable: UsableSamples,
        buckets: Sequence[Bucket],
        settings: PlanSettings,
        *,
        bucket_of: Int[np.ndarray, "steps"],
        row_ends: Int[np.ndarray, "m"],
        samples: Int[np.ndarray, "n"],
    ) -> "BatchPlan":
        """Returns the plan of these batches."""
        return cls(
            buckets=tuple(buckets),
            batch_size=settings.batch_size,
            bucket_of=bucket_of,
            row_ends=row_ends,
            samples=samples,
            bucket_of_sample=usable.bucket_of,
            dropped=usable.dropped,
        )

    def __len__(self) -> int:
        return len(self.bucket_of)

    def bucket(self, batch: int) -> Bucket:
        return self.buckets[self.bucket_of[batch]]

    def rows(self, batch: int) -> list[Int[np.ndarray, "n"]]:
        """Returns the samples of each row of a batch."""
        first = batch * self.batch_size
        ends = self.row_ends[first : first + self.batch_size]
        start = self.row_ends[first - 1] if first else 0
        return np.split(self.samples[start : ends[-1]], ends[:-1] - start)

    def batches_of_buckets(self) -> dict[Bucket, int]:
        """Returns how many batches each bucket has, buckets without any left out."""
        counts = np.bincount(self.bucket_of, minlength=len(self.buckets))
        return {b: int(n) for b, n in zip(self.buckets, counts, strict=True) if n}


def usable_samples(
    lengths: LengthIndex, buckets: Sequence[Bucket], settings: PlanSettings
) -> UsableSamples:
    """Returns which samples take part in a run.

    Args:
      buckets: smallest first.

    Raises:
      ValueError: if none can be used.
    """
    text, dropped = usable_text(lengths, settings)
    bucket_of = choose_buckets(lengths, text, buckets)
    outside = (text > 0) & (bucket_of == NO_BUCKET)
    if outside.any():
        dropped["larger than any bucket"] = int(outside.sum())
    bucket_of[text == 0] = NO_BUCKET
    if (bucket_of == NO_BUCKET).all():
        raise ValueError(f"None of {len(lengths)} samples can be used: {dropped}.")
    return UsableSamples(text=text, bucket_of=bucket_of, dropped=dropped)


def plan_batches(
    lengths: LengthIndex,
    usable: UsableSamples,
    buckets: Sequence[Bucket],
    settings: PlanSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchPlan:
    """Returns the plan of a run.

    Args:
      usable: of `usable_samples`, for the same buckets and settings.
      progress: called with the batches planned and the batches in all.
    """
    rows = planned_rows(
        lengths,
        usable.text,
        usable.bucket_of,
        buckets,
        seed=settings.seed,
        pack=settings.pack,
    )
    bucket_of, row_ends, samples = _collect(rows, len(buckets), settings, progress)
    return BatchPlan.of(
        usable,
        buckets,
        settings,
        bucket_of=bucket_of,
        row_ends=row_ends,
        samples=samples,
    )


def usable_text(
    lengths: LengthIndex, settings: PlanSettings
) -> tuple[Int[np.ndarray, "n"], dict[str, int]]:
    """Returns the text tokens of each sample, 0 where it is dropped, and why."""
    refused = np.zeros(len(lengths), bool)
    refused[list(lengths.refused)] = True
    longest = settings.max_length
    too_long = lengths.text_tokens + lengths.image_tokens > longest
    reasons = {"refused": refused}
    text = lengths.text_tokens.copy()
    if settings.too_long == "drop":
        reasons[f"longer than {longest} tokens"] = too_long & ~refused
    else:
        cuts_image = lengths.image_end > longest
        reasons[f"images end after {longest} tokens"] = cuts_image & ~refused
        untrained = lengths.first_trained >= longest - 1
        reasons["nothing left to train"] = untrained & ~cuts_image & ~refused
        text = np.where(too_long, longest - lengths.image_tokens, text)
    for each in reasons.values():
        text[each] = 0
    counts = {why: int(each.sum()) for why, each in reasons.items()}
    return text, {why: count for why, count in counts.items() if count}


def choose_buckets(
    lengths: LengthIndex, text: Int[np.ndarray, "n"], buckets: Sequence[Bucket]
) -> Int[np.ndarray, "n"]:
    """Returns the smallest bucket that holds each sample, NO_BUCKET if none does."""
    chosen = np.full(len(lengths), NO_BUCKET, np.int32)
    for number in reversed(range(len(buckets))):
        bucket = buckets[number]
        chosen[
            (lengths.crops <= bucket.crops)
            & (lengths.image_tokens <= bucket.image_tokens)
            & (text <= bucket.text_tokens)
            & (lengths.corners <= bucket.corners)
        ] = number
    return chosen


def _collect(
    rows: Iterator[Row],
    num_buckets: int,
    settings: PlanSettings,
    progress: Callable[[int, int], None],
) -> tuple[Int[np.ndarray, "steps"], Int[np.ndarray, "m"], Int[np.ndarray, "n"]]:
    """Returns bucket, row ends and samples of the batches that are full first."""
    queues: list[list[Sequence[int]]] = [[] for _ in range(num_buckets)]
    bucket_of, row_ends, samples = array("i"), array("q"), array("q")
    while len(bucket_of) < settings.steps:
        bucket, members = next(rows)
        queue = queues[bucket]
        queue.append(members)
        if len(queue) < settings.batch_size:
            continue
        bucket_of.append(bucket)
        for row in queue:
            samples.extend(row)
            row_ends.append(len(samples))
        queue.clear()
        if len(bucket_of) % _REPORTED == 0 or len(bucket_of) == settings.steps:
            progress(len(bucket_of), settings.steps)
    return tuple(np.array(each, np.int64) for each in (bucket_of, row_ends, samples))
