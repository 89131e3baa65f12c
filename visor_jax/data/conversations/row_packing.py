"""Several samples of text alone in one row, none of which sees another.

    tokens     a b c | d e | f g h
    positions  0 1 2   0 1   0 1 2
    segments   1 1 1   2 2   3 3 3

Samples with pictures have rows of their own: all image tokens of a row are of segment 0
(`visor_jax.batch`), so every text of the row would see them.
"""

from collections.abc import Sequence

import numpy as np

from visor_jax.data.image_slots import Slots
from visor_jax.data.samples import Sample
from visor_jax.data.token_layout import Layout


def packed(samples: Sequence[Sample], *, tile_size: int) -> Sample:
    """Returns the samples as one; a lone one as it is, and none as an empty row.

    Raises:
      ValueError: if there are several and one has images.
    """
    if len(samples) == 1:
        return samples[0]
    if any(sample.num_crops for sample in samples):
        raise ValueError("Samples with images cannot share a row.")
    layouts = [sample.layout for sample in samples]
    segments = [
        np.full(len(layout.tokens), number, np.int32)
        for number, layout in enumerate(layouts, 1)
    ]
    return Sample(
        crops=np.zeros((0, tile_size, tile_size, 3), np.float32),
        slots=Slots.concat([], 1),
        layout=Layout(
            tokens=_joined([each.tokens for each in layouts]),
            text_positions=_joined([each.text_positions for each in layouts]),
            image_positions=_joined([]),
            targets=_joined([each.targets for each in layouts]),
            loss_mask=_joined([each.loss_mask for each in layouts], bool),
            media=(),
            text_segments=_joined(segments),
        ),
    )


def _joined(arrays: Sequence[np.ndarray], dtype: type = np.int32) -> np.ndarray:
    return np.concatenate([*arrays, np.zeros(0, dtype)])
