"""A fixed set of shapes, so that the number of compiled programs is bounded and known.

Every sample is padded to the smallest bucket that holds it. One program is compiled per
bucket that occurs, never more than there are buckets:

    sample   5 crops  2929 image tokens   31 text tokens
    bucket   5 crops  3712 image tokens   64 text tokens

Padding changes no result: it is masked, and tokens have the order of the sample itself.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int32

from visor_jax.batch import Batch
from visor_jax.data.bucket_ladder import ladder_shapes
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import CORNERS, NEWLINE
from visor_jax.data.prompts.sample import Sample

# Image tokens are rounded up to a multiple of this, as kernels like it.
MULTIPLE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """The shape of one program's input, but for the number of rows.

    corners: 1 for a plain index of patches, 4 where image tokens are weighted sums.
    gaps: whether it is for samples with gaps alone (`Sample.has_gaps`), where programs
    of both kinds are told apart; else the rows of a batch say whether there are any.
    """

    crops: int
    image_tokens: int
    text_tokens: int
    corners: int = 1
    gaps: bool = False

    def __post_init__(self) -> None:
        if min(self.crops, self.image_tokens, self.text_tokens) < 1:
            raise ValueError(f"{self}: every length must be at least 1.")
        if self.corners not in (1, CORNERS):
            raise ValueError(f"{self}: corners must be 1 or {CORNERS}.")

    def lengths(self) -> dict[str, int]:
        """Returns what records of a run say; of `gaps`, which came later, if true."""
        fields = dataclasses.asdict(self)
        return fields if self.gaps else {k: v for k, v in fields.items() if k != "gaps"}

    def holds(self, sample: Sample) -> bool:
        return (
            sample.num_crops <= self.crops
            and sample.num_image_tokens <= self.image_tokens
            and sample.num_text_tokens <= self.text_tokens
            and sample.patch_index.corners <= self.corners
        )


@dataclasses.dataclass(frozen=True)
class Group:
    """A batch of samples of one bucket.

    rows: which sample stands in each row. A last group that is not full repeats its
      last sample, without loss; `rows` names only the first `len(rows)` rows.
    """

    bucket: Bucket
    rows: tuple[int, ...]
    batch: Batch


class Buckets:
    """The buckets of a network, smallest first."""

    def __init__(
        self, buckets: Iterable[Bucket], settings: ImageSettings, *, pad_id: int
    ) -> None:
        """Takes any buckets of a network with these crops; `pad_id` fills up text.

        Raises:
          ValueError: if there is no bucket.
        """
        self._settings = settings
        self._pad_id = pad_id
        self.all = tuple(sorted(set(buckets), key=self._size))
        if not self.all:
            raise ValueError("At least one bucket is needed.")
        self._tells_gaps = any(bucket.gaps for bucket in self.all)

    @classmethod
    def ladder(
        cls,
        settings: ImageSettings,
        *,
        pad_id: int,
        text_tokens: Sequence[int] = (64, 256, 1024, 4096),
        max_images: int = 8,
        max_frames: int = 32,
        multiple: int = MULTIPLE,
    ) -> "Buckets":
        """Returns buckets for text alone, an image of any size, several, and a video.

        Args:
          text_tokens: the lengths of text.
          max_images, max_frames: of the largest bucket for several images, for a video;
            0 for none.
          multiple: image tokens are rounded up to a multiple of this.
        """
        shapes = ladder_shapes(settings, max_images=max_images, max_frames=max_frames)
        return cls(
            (
                Bucket(
                    crops=crops,
                    image_tokens=-(-tokens // multiple) * multiple,
                    text_tokens=text,
                    corners=corners,
                )
                for (crops, tokens, corners), text in itertools.product(
                    shapes, text_tokens
                )
            ),
            settings,
            pad_id=pad_id,
        )

    def __len__(self) -> int:
        return len(self.all)

    @property
    def pad_id(self) -> int:
        """The token that fills up text."""
        return self._pad_id

    @property
    def image_settings(self) -> ImageSettings:
        """How pictures become the crops of these shapes."""
        return self._settings

    @property
    def crop_size(self) -> int:
        """Pixels on a side of every crop."""
        return self._settings.tile_size

    @property
    def patches_per_crop(self) -> int:
        return self._settings.patches_per_crop

    def choose(self, sample: Sample) -> Bucket:
        """Returns the smallest bucket that holds the sample.

        Raises:
          ValueError: if none does, with the sample's lengths.
        """
        gaps = self._tells_gaps and sample.has_gaps
        for bucket in self.all:
            if bucket.gaps == gaps and bucket.holds(sample):
                return bucket
        most = {
            name: max(getattr(bucket, name) for bucket in self.all)
            for name in ("crops", "image_tokens", "text_tokens")
        }
        raise ValueError(
            f"No bucket holds a sample of {sample.num_crops} crops, "
            f"{sample.num_image_tokens} image tokens and {sample.num_text_tokens} text "
            f"tokens ({sample.patch_index.corners} patches per token); the buckets go "
            f"up to {most}: add one, or give less."
        )

    def batches(
        self, samples: Sequence[Sample], batch_size: int = 1, *, whole: bool = True
    ) -> Iterator[Group]:
        """Yields all samples in groups of one bucket and `batch_size` rows each.

        Within a bucket samples keep their order.

        Args:
          whole: whether what is left over of a bucket is filled up to `batch_size` as
            well, so that there is one shape per bucket; else to a power of two, which
            is more shapes and less work.

        Raises:
          ValueError: if a sample fits into no bucket; before anything is yielded.
        """
        if batch_size < 1:
            raise ValueError(f"{batch_size=} must be at least 1.")
        members: dict[Bucket, list[int]] = {}
        for row, sample in enumerate(samples):
            members.setdefault(self.choose(sample), []).append(row)
        return self._groups(samples, members, batch_size, whole)

    def _groups(
        self,
        samples: Sequence[Sample],
        members: dict[Bucket, list[int]],
        batch_size: int,
        whole: bool,
    ) -> Iterator[Group]:
        for bucket, rows in members.items():
            for start in range(0, len(rows), batch_size):
                chosen = rows[start : start + batch_size]
                size = batch_size if whole else padded_rows(len(chosen), batch_size)
                filled = chosen + chosen[-1:] * (size - len(chosen))
                batch = self.batch([samples[row] for row in filled], bucket)
                batch.loss_mask[len(chosen) :] = False
                yield Group(bucket, tuple(chosen), batch)

    def batch(
        self, samples: Sequence[Sample], bucket: Bucket, *, places: bool = False
    ) -> Batch:
        """Returns the samples as one batch, padded on the right to the bucket's shape.

        Args:
          places: whether it says where image tokens stand though all of them are there,
            as where crops may be left out of other batches of this shape.

        Raises:
          ValueError: if there is none, or the bucket does not hold one of them.
        """
        wrong = [i for i, s in enumerate(samples) if not bucket.holds(s)]
        if wrong or not samples:
            raise ValueError(f"{bucket} does not hold samples {wrong} of the batch.")
        rows = [self.fields(s, bucket) for s in samples]
        if places or any(s.has_gaps for s in samples):
            for row, sample in zip(rows, samples, strict=True):
                row["image_places"] = image_places(sample, bucket)
        return Batch(
            **{name: np.stack([row[name] for row in rows]) for name in rows[0]}
        )

    def fields(self, sample: Sample, bucket: Bucket) -> dict[str, np.ndarray]:
        """Returns the fields of a `Batch`, padded, without a batch axis."""
        return {
            **self.image_fields(sample, bucket),
            **self._text_fields(sample, bucket),
        }

    def image_fields(self, sample: Sample, bucket: Bucket) -> dict[str, np.ndarray]:
        """Returns the image fields of a `Batch`, padded, without a batch axis."""
        patches, length = sample.patch_index, bucket.image_tokens
        if bucket.corners > 1:
            patches = patches.with_corners()
        newline = bucket.crops * self._settings.patches_per_crop
        index = np.where(patches.index == NEWLINE, newline, patches.index)
        index = index.astype(np.int32)
        fields = {
            "pixels": _padded(sample.crops, bucket.crops),
            "image_token_index": _padded(index, length),
            "image_positions": _padded(sample.layout.image_positions, length),
            "image_mask": np.arange(length) < patches.count,
        }
        if patches.weights is not None:
            fields["image_token_weights"] = _padded(patches.weights, length)
        if bucket.gaps:
            fields["image_places"] = image_places(sample, bucket)
        return fields

    def _text_fields(self, sample: Sample, bucket: Bucket) -> dict[str, np.ndarray]:
        layout, length = sample.layout, bucket.text_tokens
        return {
            "tokens": _padded(layout.tokens, length, self._pad_id),
            "text_positions": _padded(layout.text_positions, length),
            "text_segments": _padded(layout.segments, length),
            "text_mask": np.arange(length) < len(layout.tokens),
            "targets": _padded(layout.targets, length, self._pad_id),
            "loss_mask": _padded(layout.loss_mask, length),
        }

    def _size(self, bucket: Bucket) -> tuple[int, int, bool]:
        patches = bucket.crops * self._settings.patches_per_crop
        tokens = patches + bucket.image_tokens + bucket.text_tokens
        return tokens, bucket.corners, bucket.gaps


def image_places(sample: Sample, bucket: Bucket) -> Int32[np.ndarray, "V"]:
    """Returns `Batch.image_places` of a sample, padded, all tokens there or not."""
    places = sample.image_places
    if places is None:
        places = np.arange(sample.num_image_tokens, dtype=np.int32)
    return _padded(places, bucket.image_tokens)


def padded_rows(rows: int, most: int) -> int:
    """Returns how many rows stand for so many: a power of two up to `most`."""
    return min(most, 1 << (rows - 1).bit_length())


def _padded(values: np.ndarray, length: int, filler: int = 0) -> np.ndarray:
    padded = np.full((length, *values.shape[1:]), filler, values.dtype)
    padded[: len(values)] = values
    return padded
