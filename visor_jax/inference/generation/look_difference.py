"""What a second look at an image needs beyond the first: made on the host.

The first look has the crops 0 and 2, the second all four (n: newlines; the convolution
of the adapters has three taps):

    tokens of the second look   0 0 0 0  1 1 2 2 3 3 n  1 1 2 2 3 3 n
    known from the first        x x x x      x x     x      x x     x
    new                                  x x     x x    x x     x x
    keys made                         x  x x x x x x x  x x x x x x x
    read for them                   x x  x x x x x x x  x x x x x x x

Keys of a token mix it with its neighbours: they are made of new tokens and of those
beside one (the seam), for which their own neighbours are read. Everything else of the
first look stays.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import Bool, Int32

from visor_jax.batch import Array, Batch
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.patch_index import NEWLINE, PatchIndex
from visor_jax.data.prompts.sample import Sample


@flax.struct.dataclass
class LookDifference:
    """A batch of second looks, but for what the first ones know.

    prompts: as the second look has them; pixels of the missing crops alone, patches
      numbered through those of the first look, the missing ones, and the newline.
    known: (B, V of the first look) which token of the second look each token is.
    read: (B, R) tokens of the second look that keys are made of. made: (B, R) the same
      where the keys come out right, at which they are written. In all three V of the
      second look stands for nothing.
    """

    prompts: Batch
    known: Array
    read: Array
    made: Array

    @property
    def new_keys(self) -> int:
        """How many keys each layer makes, padding included."""
        return self.read.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookShapes:
    """Shapes of a first look and of what a second one adds.

    first: of the first look. second: of all that the second looks at, crops of the
    first among them. read: room for the tokens that keys are made of; None for as many
    as there are, in steps of 128.
    """

    first: Bucket
    second: Bucket
    read: int | None = None

    def __post_init__(self) -> None:
        if self.second.crops <= self.first.crops:
            raise ValueError(
                f"A second look has more crops than the first: {self.second.crops} "
                f"after {self.first.crops}."
            )

    @property
    def missing(self) -> int:
        """Crops that the second look encodes."""
        return self.second.crops - self.first.crops


def look_difference(
    samples: Sequence[Sample],
    first: Sequence[Sequence[int]],
    second: Sequence[Sequence[int]],
    shapes: LookShapes,
    buckets: Buckets,
    *,
    taps: int,
) -> LookDifference:
    """Returns what second looks at these samples need.

    Args:
      samples: with all of their crops. first, second: crops of each, ascending.
      taps: of the adapters' position convolution (`AdapterConfig.conv_kernel`).

    Raises:
      ValueError: for crops that only the first look has, more than the shapes hold, or
        crops that do not exist.
    """
    rows = [
        _row(*each, shapes, buckets, taps // 2)
        for each in zip(samples, first, second, strict=True)
    ]
    wanted = max(len(row.read) for row in rows)
    room = -(-wanted // 128) * 128 if shapes.read is None else shapes.read
    if room < wanted:
        raise ValueError(
            f"Keys are made of {wanted} tokens, and there is room for {room}."
        )
    nothing = shapes.second.image_tokens

    def stacked(name: str, length: int) -> Int32[np.ndarray, "B length"]:
        return np.stack([_filled(getattr(row, name), length, nothing) for row in rows])

    fields = {name: np.stack([r.fields[name] for r in rows]) for name in rows[0].fields}
    return LookDifference(
        prompts=Batch(**fields),
        known=stacked("known", shapes.first.image_tokens),
        read=stacked("read", room),
        made=stacked("made", room),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Row:
    """The fields of one row, not yet padded but for those of a `Batch`."""

    fields: dict[str, np.ndarray]
    known: Int32[np.ndarray, "V"]
    read: Int32[np.ndarray, "R"]
    made: Int32[np.ndarray, "R"]


def _row(
    sample: Sample,
    first: Sequence[int],
    second: Sequence[int],
    shapes: LookShapes,
    buckets: Buckets,
    half: int,
) -> _Row:
    per_crop = buckets.patches_per_crop
    missing = [crop for crop in second if crop not in first]
    lost = sorted({*first} - {*second})
    if lost or len(first) > shapes.first.crops or len(missing) > shapes.missing:
        raise ValueError(
            f"A second look at crops {list(second)} after {list(first)}: it must have "
            f"all of the first look's, at most {shapes.first.crops}, and at most "
            f"{shapes.missing} more."
        )
    before, after = (sample.of_crops(crops, per_crop) for crops in (first, second))
    for part, bucket in ((before, shapes.first), (after, shapes.second)):
        if not bucket.holds(part):
            raise ValueError(
                f"{bucket} does not hold a look of {part.num_crops} crops, "
                f"{part.num_image_tokens} image and {part.num_text_tokens} text tokens."
            )
    places = _places(after)
    known = np.searchsorted(places, _places(before))
    is_new = np.ones(len(places), bool)
    is_new[known] = False
    made = _near(places, is_new, half)
    read = np.flatnonzero(_near(places, made, half))
    slots = [
        [*first].index(crop)
        if crop in first
        else shapes.first.crops + missing.index(crop)
        for crop in second
    ]
    shown = dataclasses.replace(
        after,
        crops=sample.crops[missing],
        patch_index=_renumbered(after.patch_index, slots, per_crop),
    )
    fields = buckets.fields(shown, shapes.second)
    fields["image_places"] = _filled(places, shapes.second.image_tokens, 0)
    fields["pixels"] = fields["pixels"][: shapes.missing]
    return _Row(
        fields=fields,
        known=known.astype(np.int32),
        read=read.astype(np.int32),
        made=np.where(made[read], read, shapes.second.image_tokens).astype(np.int32),
    )


def _places(sample: Sample) -> Int32[np.ndarray, "V"]:
    if sample.image_places is None:
        return np.arange(sample.num_image_tokens, dtype=np.int32)
    return sample.image_places


def _near(
    places: Int32[np.ndarray, "V"], chosen: Bool[np.ndarray, "V"], half: int
) -> Bool[np.ndarray, "V"]:
    """Returns the tokens at most `half` places from one that is chosen, or chosen."""
    there = np.zeros(int(places.max()) + 1 + 2 * half, bool)
    for shift in range(2 * half + 1):
        there[places[chosen] + shift] = True
    return there[places + half]


def _renumbered(patches: PatchIndex, slots: Sequence[int], per_crop: int) -> PatchIndex:
    """Returns the same tokens of crops that lie at other numbers."""
    crop, patch = np.divmod(patches.index, per_crop)
    index = np.asarray(slots, np.int32)[crop] * per_crop + patch
    index = np.where(crop == NEWLINE, NEWLINE, index).astype(np.int32)
    return PatchIndex(index, patches.weights, patches.crops)


def _filled(
    values: Int32[np.ndarray, "n"], length: int, nothing: int
) -> Int32[np.ndarray, "length"]:
    return np.pad(values, (0, length - len(values)), constant_values=nothing)
