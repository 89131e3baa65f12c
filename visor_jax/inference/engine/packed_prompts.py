"""Requests as rows of a prompt batch; those about the same image share one row.

What stands before the end of an image (system prompt, text before it) is segment 0 and
seen by all requests of the row; each request is a segment of its own. The image is
then encoded, refined and turned into keys and values once for all of them:

    image      order  1 2 3 4
    text       order  0   5 6 7   5 6          segments  0   1 1 1   2 2
                      user What is this ?  Who ?

A row of one request is all segment 0, as a plain batch has it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.struct
import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.row_packing import packed
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.look_cascade import LookCascade
from visor_jax.ops.masks import TokenTags

# NumPy arrays on the host, jax arrays inside a program.
Array = Any


class ImageShape(NamedTuple):
    """The part of a bucket that an encoded image depends on."""

    crops: int
    tokens: int
    corners: int
    gaps: bool


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedRequest:
    """A request that has been read and tokenised.

    number: of the request, in the order of asking. limit: most tokens of its answer.
    sampling: how they are chosen. budget: that it asks for, None for the router's; of
    a cascade its first one. cascade: that says whether its answer is sure enough.
    image: digest of the crops and what tokens are made of them, None without an image.
    shared: digest of all that the requests of one row have in common.
    looked_at: which crops of its image are shown (`Looking.report`); None for all.
    look_cascade: of a first look at the base view, says whether its answer is sure
    enough; None for the last look, and where nothing else is to be seen. whole: the
    sample of the look that may follow.
    """

    number: int
    request: Request
    sample: Sample
    limit: int
    image: bytes | None
    shared: bytes
    sampling: Sampling = GREEDY
    budget: Budget | None = None
    cascade: Cascade | None = None
    looked_at: dict[str, Any] | None = None
    look_cascade: LookCascade | None = None
    whole: Sample | None = None

    @property
    def num_bytes(self) -> int:
        """The bytes of its pixels on the host, those of a look to come among them."""
        # All crops hold those of the base view.
        return (self.whole or self.sample).crops.nbytes

    @property
    def may_change(self) -> bool:
        """Whether its answer may be none, but the reason to look again."""
        return self.cascade is not None or self.look_cascade is not None

    @property
    def seed(self) -> int:
        """Of a key of its own for random draws; -1 for the engine's."""
        seed = self.request.options.seed
        return -1 if seed is None else seed

    @property
    def draw(self) -> int:
        """What tells its draws from those of others with the same key."""
        if self.seed >= 0:
            # As row 0 of a batch of one draws: see `keys_of_rows`.
            return 0
        return self.number if self.request.draw is None else self.request.draw

    @classmethod
    def of(
        cls, number: int, request: Request, sample: Sample, limit: int
    ) -> "PreparedRequest":
        """Returns the prepared request of a sample.

        Raises:
          ValueError: if there is no text after the last image to go on from.
        """
        layout = sample.layout
        head = layout.shared_tokens
        if head == len(layout.tokens):
            what = "ends with the image" if sample.num_image_tokens else "has no text"
            raise ValueError(f"The prompt {what}: put text after it.")
        if not sample.num_image_tokens:
            return cls(number, request, sample, limit, None, b"%d" % number)
        image = sample.image_key
        if image is None:
            index, places = sample.patch_index, sample.image_places
            image = _digest(sample.crops, index.index, index.weights, places)
        shared = _digest(image, layout.tokens[:head], layout.image_positions)
        return cls(number, request, sample, limit, image, shared)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptRow:
    """One row: requests with all that they share, and the bucket that holds them."""

    requests: tuple[PreparedRequest, ...]
    sample: Sample
    bucket: Bucket

    @property
    def image(self) -> bytes | None:
        return self.requests[0].image

    def without_pixels(self) -> "PromptRow":
        """Returns the row once its image is encoded: pixels take most of the memory."""

        def without(sample: Sample) -> Sample:
            return dataclasses.replace(sample, crops=sample.crops[:, :0, :0].copy())

        requests = tuple(
            dataclasses.replace(request, sample=without(request.sample))
            for request in self.requests
        )
        return dataclasses.replace(self, requests=requests, sample=without(self.sample))

    def segment_of(self, index: int) -> int:
        """Returns the segment of the request of this index in the row."""
        return 0 if len(self.requests) == 1 else index + 1

    def last_indices(self) -> np.ndarray:
        """Returns where each request ends, (requests,) int32."""
        head = self.sample.layout.shared_tokens
        own = [each.sample.num_text_tokens - head for each in self.requests]
        return (head + np.cumsum(own) - 1).astype(np.int32)


@flax.struct.dataclass
class RowArrays:
    """Rows as a program takes them; `last` has R columns, unused ones are 0."""

    tokens: Array
    text: TokenTags
    image: TokenTags
    last: Array


def image_shape(bucket: Bucket) -> ImageShape:
    """Returns the part of a bucket that an encoded image depends on."""
    return ImageShape(bucket.crops, bucket.image_tokens, bucket.corners, bucket.gaps)


def pack(
    requests: Iterable[PreparedRequest],
    buckets: Buckets,
    *,
    per_row: Callable[[Bucket], int],
) -> list[PromptRow]:
    """Returns rows of up to `per_row` requests, in the order of their first ones.

    A request joins the row of an earlier one if they share the image and all text
    before its end, and a bucket for the same image holds them together.
    """
    rows: list[PromptRow] = []
    open_rows: dict[bytes, int] = {}
    for request in requests:
        alone = PromptRow((request,), request.sample, buckets.choose(request.sample))
        place = open_rows.get(request.shared)
        joined = None
        if place is not None:
            joined = _joined(rows[place], request, buckets)
        if joined is not None and len(joined.requests) <= per_row(joined.bucket):
            rows[place] = joined
        else:
            open_rows[request.shared] = len(rows)
            rows.append(alone)
    return rows


def _joined(
    row: PromptRow, request: PreparedRequest, buckets: Buckets
) -> PromptRow | None:
    sample = packed(row.sample, [request.sample.layout])
    try:
        bucket = buckets.choose(sample)
    except ValueError:
        return None
    if image_shape(bucket) != image_shape(row.bucket):
        return None
    return PromptRow((*row.requests, request), sample, bucket)


def row_arrays(
    rows: Sequence[PromptRow], bucket: Bucket, *, count: int, per_row: int, pad_id: int
) -> RowArrays:
    """Returns `count` rows padded to the bucket; those beyond `rows` are empty."""
    text, image = (count, bucket.text_tokens), (count, bucket.image_tokens)
    tokens = np.full(text, pad_id, np.int32)
    text_tags, image_tags = _no_tags(text), _no_tags(image)
    last = np.zeros((count, per_row), np.int32)
    for i, row in enumerate(rows):
        layout = row.sample.layout
        length, seen = len(layout.tokens), len(layout.image_positions)
        tokens[i, :length] = layout.tokens
        text_tags.order[i, :length] = layout.text_positions
        text_tags.segments[i, :length] = layout.segments
        text_tags.valid[i, :length] = True
        image_tags.order[i, :seen] = layout.image_positions
        image_tags.valid[i, :seen] = True
        last[i, : len(row.requests)] = row.last_indices()
    return RowArrays(tokens, text_tags, image_tags, last)


def _no_tags(shape: tuple[int, int]) -> TokenTags:
    return TokenTags(
        np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    )


def _digest(*parts: np.ndarray | bytes | None) -> bytes:
    """Returns 16 bytes that tell these contents, with their shapes, from others."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part)
        found.update(b"" if part is None else part)
    return found.digest()
