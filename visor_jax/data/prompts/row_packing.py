"""Several conversations in one row, none of which sees another.

About one image: it and all text before it are of segment 0, which everybody sees; what
follows is a segment for each conversation. (S: system turn, V: image tokens)

    tokens      S S     a b c | d e            V V V
    positions   0 1     5 6 7   5 6            2 3 4
    segments    0 0     1 1 1   2 2            0 0 0

About no image: every conversation is a segment from its first token on.

Conversations about different images have rows of their own: all image tokens of a row
are of segment 0 (`visor_jax.batch`), so every text of the row would see them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from visor_jax.data.images.patch_index import PatchIndex
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.token_layout import Layout

_TEXT_FIELDS = ("tokens", "text_positions", "targets", "loss_mask")


def packed(sample: Sample, others: Sequence[Layout]) -> Sample:
    """Returns a sample that shares its row with other conversations.

    Each gets the logits that it gets alone. What is trained before the image is trained
    once, not once for each. With several images, all text before the end of the last
    one is shared.

    Args:
      sample: one conversation, or a row that was packed before and goes on.

    Raises:
      ValueError: if the others do not have as many image tokens in the same places, or
        not the same text before them. (Which image it is the plan must know.)
    """
    if not others:
        return sample
    row = sample.layout
    shared = row.shared_tokens
    for each in others:
        same = np.array_equal(each.image_positions, row.image_positions)
        if not same or not np.array_equal(each.tokens[:shared], row.tokens[:shared]):
            raise ValueError(
                "Only conversations about one image, with the same text before it, or "
                "about none, can share a row."
            )
    fields = {
        name: np.concatenate(
            [getattr(row, name), *(getattr(each, name)[shared:] for each in others)]
        )
        for name in _TEXT_FIELDS
    }
    segments = [_segments_of_first(row, shared)]
    for number, each in enumerate(others, int(segments[0].max(initial=1)) + 1):
        segments.append(np.full(len(each.tokens) - shared, number, np.int32))
    layout = dataclasses.replace(row, **fields, text_segments=np.concatenate(segments))
    return dataclasses.replace(sample, layout=layout)


def _segments_of_first(row: Layout, shared: int) -> np.ndarray:
    """Returns the segments of a row to which others come."""
    if row.text_segments is not None:
        return row.text_segments
    return (np.arange(len(row.tokens)) >= shared).astype(np.int32)


def empty_row(crop_size: int) -> Sample:
    """Returns a row without a token."""
    nothing = np.zeros(0, np.int32)
    return Sample(
        crops=np.zeros((0, crop_size, crop_size, 3), np.float32),
        patch_index=PatchIndex.concat([], 1),
        layout=Layout(
            tokens=nothing,
            text_positions=nothing,
            image_positions=nothing,
            targets=nothing,
            loss_mask=np.zeros(0, bool),
            media=(),
        ),
    )
