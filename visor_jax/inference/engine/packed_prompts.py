"""Questions as rows of a prompt batch; those about the same image share one row.

What stands before the end of an image (system prompt, text before it) is segment 0 and
seen by all questions of the row; each question is a segment of its own. The image is
then encoded, refined and turned into keys and values once for all of them:

    image      positions  1 2 3 4
    text       positions  0   5 6 7   5 6      segments  0   1 1 1   2 2
                          user What is this ?  Who ?

A row of one question is all segment 0, as a plain batch has it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.struct
import numpy as np

from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.row_packing import packed
from visor_jax.data.prompts.sample import Sample
from visor_jax.ops.masks import TokenTags

# Crops, image tokens and patches per token: what an encoded image depends on.
ImageShape = tuple[int, int, int]
# NumPy arrays on the host, jax arrays inside a program.
Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A request that has been read.

    number: of the request, in the order of asking. draw: what its random draws depend
    on. limit: most tokens of its answer.
    image: digest of the crops and what tokens are made of them, None without an image.
    shared: digest of all that the questions of one row have in common.
    """

    number: int
    request: Request
    sample: Sample
    limit: int
    image: bytes | None
    shared: bytes

    @property
    def draw(self) -> int:
        return self.number if self.request.draw is None else self.request.draw

    @classmethod
    def of(
        cls, number: int, request: Request, sample: Sample, limit: int
    ) -> "Question":
        """Returns the question of a sample.

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
        image = _digest(sample.crops, sample.slots.index, sample.slots.weights)
        shared = _digest(image, layout.tokens[:head], layout.image_positions)
        return cls(number, request, sample, limit, image, shared)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptRow:
    """One row: questions with all that they share, and the bucket that holds them."""

    questions: tuple[Question, ...]
    sample: Sample
    bucket: Bucket

    @property
    def image(self) -> bytes | None:
        return self.questions[0].image

    def without_pixels(self) -> "PromptRow":
        """Returns the row once its image is encoded: pixels take most of the memory."""

        def without(sample: Sample) -> Sample:
            return dataclasses.replace(sample, crops=sample.crops[:, :0, :0].copy())

        questions = tuple(
            dataclasses.replace(question, sample=without(question.sample))
            for question in self.questions
        )
        return dataclasses.replace(
            self, questions=questions, sample=without(self.sample)
        )

    def segment_of(self, place: int) -> int:
        """Returns the segment of the question at this place of the row."""
        return 0 if len(self.questions) == 1 else place + 1

    def last_slots(self) -> np.ndarray:
        """Returns where each question ends, (questions,) int32."""
        head = self.sample.layout.shared_tokens
        own = [q.sample.num_text_tokens - head for q in self.questions]
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
    return bucket.crops, bucket.image_tokens, bucket.corners


def pack(
    questions: Iterable[Question], buckets: Buckets, *, per_row: Callable[[Bucket], int]
) -> list[PromptRow]:
    """Returns rows of up to `per_row` questions, in the order of their first ones.

    A question joins the row of an earlier one if they share the image and all text
    before its end, and a bucket for the same image holds them together.
    """
    rows: list[PromptRow] = []
    open_rows: dict[bytes, int] = {}
    for question in questions:
        alone = PromptRow((question,), question.sample, buckets.choose(question.sample))
        place = open_rows.get(question.shared)
        joined = None
        if place is not None:
            joined = _joined(rows[place], question, buckets)
        if joined is not None and len(joined.questions) <= per_row(joined.bucket):
            rows[place] = joined
        else:
            open_rows[question.shared] = len(rows)
            rows.append(alone)
    return rows


def _joined(row: PromptRow, question: Question, buckets: Buckets) -> PromptRow | None:
    sample = packed(row.sample, [question.sample.layout])
    try:
        bucket = buckets.choose(sample)
    except ValueError:
        return None
    if image_shape(bucket) != image_shape(row.bucket):
        return None
    return PromptRow((*row.questions, question), sample, bucket)


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
        text_tags.positions[i, :length] = layout.text_positions
        text_tags.segments[i, :length] = layout.segments
        text_tags.valid[i, :length] = True
        image_tags.positions[i, :seen] = layout.image_positions
        image_tags.valid[i, :seen] = True
        last[i, : len(row.questions)] = row.last_slots()
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
