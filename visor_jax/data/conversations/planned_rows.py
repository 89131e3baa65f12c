"""Which samples share a row, epoch after epoch.

Samples of text alone fill rows together; samples about one image, with the same text
before it, stand together, so that the image is encoded once for all of them
(`row_packing`). Every other sample has a row of its own.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from visor_jax.data.buckets import Bucket
from visor_jax.data.conversations.length_index import LengthIndex

NO_BUCKET = -1
# Rows of texts that are filled at the same time.
_OPEN_ROWS = 32

# A row: its bucket, and the samples in it.
Row = tuple[int, Sequence[int]]


def planned_rows(
    lengths: LengthIndex,
    text: Int[np.ndarray, "n"],
    bucket_of: Int[np.ndarray, "n"],
    buckets: Sequence[Bucket],
    *,
    seed: int,
    pack: bool,
) -> Iterator[Row]:
    """Yields the rows of all epochs, without end.

    Args:
      text: tokens that are used of each sample.
      bucket_of: the smallest bucket for each sample alone; NO_BUCKET for those that
        take no part.
      pack: whether samples share rows at all.
    """
    usable = np.flatnonzero(bucket_of != NO_BUCKET)
    alone = (lengths.crops == 0) & pack
    groups = _Groups(lengths, text, bucket_of, buckets, usable if pack else usable[:0])
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(usable)
        packer = _TextPacker(buckets)
        groups.shuffle(order)
        for sample in order.tolist():
            if alone[sample]:
                yield from packer.add(sample, int(text[sample]))
            elif groups.holds(sample):
                yield from groups.rows_at(sample)
            else:
                yield int(bucket_of[sample]), (sample,)
        yield from packer.close()


class _TextPacker:
    """Fills rows with samples of text: each goes to the fullest row that has room."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        # Rows of text have the shapes that cost the fewest crops and image tokens.
        least = min((b.crops, b.image_tokens, b.corners) for b in buckets)
        self._shapes = sorted(
            (bucket.text_tokens, number)
            for number, bucket in enumerate(buckets)
            if (bucket.crops, bucket.image_tokens, bucket.corners) == least
        )
        self._capacity = self._shapes[-1][0]
        # Of every open row: tokens in it, and its samples.
        self._open: list[tuple[int, list[int]]] = []

    def add(self, sample: int, length: int) -> Iterator[Row]:
        """Yields the row that is closed to make room for the sample, if one must be."""
        fitting = [
            (used, i)
            for i, (used, _) in enumerate(self._open)
            if used + length <= self._capacity
        ]
        if fitting:
            used, i = max(fitting)
            members = self._open[i][1]
            members.append(sample)
            self._open[i] = (used + length, members)
            return
        if len(self._open) == _OPEN_ROWS:
            fullest = max(range(_OPEN_ROWS), key=lambda i: self._open[i][0])
            yield self._closed(*self._open.pop(fullest))
        self._open.append((length, [sample]))

    def close(self) -> Iterator[Row]:
        """Yields the rows that are still open."""
        for used, members in self._open:
            yield self._closed(used, members)
        self._open = []

    def _closed(self, used: int, members: list[int]) -> Row:
        return next(n for length, n in self._shapes if length >= used), members


class _Groups:
    """Samples about one image: they come where the first of them comes."""

    def __init__(
        self,
        lengths: LengthIndex,
        text: Int[np.ndarray, "n"],
        bucket_of: Int[np.ndarray, "n"],
        buckets: Sequence[Bucket],
        usable: Int[np.ndarray, "m"],
    ) -> None:
        self._lengths, self._text, self._buckets = lengths, text, buckets
        self._bucket_of = bucket_of
        group = lengths.group[usable]
        named, counts = np.unique(group[group != 0], return_counts=True)
        shared = np.isin(group, named[counts > 1])
        self._group_of = dict(
            zip(usable[shared].tolist(), group[shared].tolist(), strict=True)
        )
        self._members: dict[int, list[int]] = {}

    def shuffle(self, order: Int[np.ndarray, "m"]) -> None:
        """Puts the members of every group in the order of an epoch."""
        self._members = {}
        if not self._group_of:
            return
        for sample in order.tolist():
            if (group := self._group_of.get(sample)) is not None:
                self._members.setdefault(group, []).append(sample)

    def holds(self, sample: int) -> bool:
        return sample in self._group_of

    def rows_at(self, sample: int) -> Iterator[Row]:
        """Yields the rows of a sample's group when it is the first of them."""
        members = self._members[self._group_of[sample]]
        if members[0] != sample:
            return
        row, bucket, used = [sample], int(self._bucket_of[sample]), self._text[sample]
        for other in members[1:]:
            added = self._text[other] - self._lengths.shared_tokens[other]
            larger = self._bucket(other, int(used + added))
            if larger is None:
                yield bucket, row
                row, bucket, used = [], int(self._bucket_of[other]), 0
                added, larger = self._text[other], bucket
            row, bucket, used = [*row, other], larger, used + added
        yield bucket, row

    def _bucket(self, sample: int, text: int) -> int | None:
        """Returns the smallest bucket for the sample's image and so much text."""
        lengths = self._lengths
        for number, bucket in enumerate(self._buckets):
            if (
                lengths.crops[sample] <= bucket.crops
                and lengths.image_tokens[sample] <= bucket.image_tokens
                and lengths.corners[sample] <= bucket.corners
                and text <= bucket.text_tokens
            ):
                return number
        return None
