"""Buckets for some crops of an image, beside those for all of them.

for_any_look   a rung for every number of crops; gaps are what rows say
for_looks      exactly these numbers of crops, with and without gaps told apart, so
               that every program of an engine is of one kind
"""

import itertools
from collections.abc import Iterable, Mapping

from visor_jax.data.bucket_ladder import crop_rungs, look_tokens
from visor_jax.data.buckets import MULTIPLE, Bucket, Buckets
from visor_jax.look import Crops


def for_any_look(buckets: Buckets, *, multiple: int = MULTIPLE) -> Buckets:
    """Returns these buckets and smaller ones, for some crops of an image.

    Args:
      multiple: image tokens are rounded up to a multiple of this.
    """
    most = max(bucket.crops for bucket in buckets.all)
    tokens = _most_tokens(buckets, crop_rungs(most), multiple)
    return _joined(buckets, _of_crops(buckets, tokens, (False,)))


def for_looks(
    buckets: Buckets, looks: Iterable[Crops], *, multiple: int = MULTIPLE
) -> Buckets:
    """Returns these buckets and those that the looks need; gaps are told apart.

    Itself for looks at all crops. A base view has no gaps, other tiles may have some.
    """
    most = max(bucket.crops for bucket in buckets.all)
    counts = {min(look.count + 1, most) for look in looks if not look.is_all}
    tokens = _most_tokens(buckets, sorted({1, *counts} if counts else ()), multiple)
    base = {count: length for count, length in tokens.items() if count == 1}
    tiles = {count: length for count, length in tokens.items() if count > 1}
    more = _of_crops(buckets, base, (False,)) + _of_crops(buckets, tiles, (False, True))
    return _joined(buckets, more)


def _most_tokens(
    buckets: Buckets, counts: Iterable[int], multiple: int
) -> dict[int, int]:
    """Returns the image tokens of a bucket for each number of crops."""
    settings = buckets.image_settings
    # Fewer crops have no more tokens than all; a longer bucket would never be chosen.
    longest = max(bucket.image_tokens for bucket in buckets.all)
    return {
        count: min(-(-look_tokens(settings, count) // multiple) * multiple, longest)
        for count in counts
    }


def _of_crops(
    buckets: Buckets, tokens: Mapping[int, int], gaps: Iterable[bool]
) -> list[Bucket]:
    """Returns a bucket for each number of crops, at every length of text.

    tokens: image tokens, by the number of crops.
    """
    corners = sorted({bucket.corners for bucket in buckets.all})
    text_tokens = sorted({bucket.text_tokens for bucket in buckets.all})
    return [
        Bucket(
            crops=count,
            image_tokens=length,
            text_tokens=text,
            corners=each,
            gaps=has_gaps,
        )
        for (count, length), text, each, has_gaps in itertools.product(
            tokens.items(), text_tokens, corners, gaps
        )
    ]


def _joined(buckets: Buckets, more: Iterable[Bucket]) -> Buckets:
    every = [*buckets.all, *more]
    return Buckets(every, buckets.image_settings, pad_id=buckets.pad_id)
