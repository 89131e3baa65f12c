"""One conversation as the network takes it: pictures, and where every token stands."""

import dataclasses

import numpy as np
from jaxtyping import Float32

from visor_jax.data.images.patch_index import (
    PatchIndex,
)
from visor_jax.data.prompts.token_layout import Layout


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One conversation as the network takes it, not yet padded.

    crops: (C, t, t, 3) of all images and video frames, in the order of the prompt.
    patch_index: which patches make the image tokens. layout: both streams of tokens.
    """

    crops: Float32[np.ndarray, "C t t 3"]
    patch_index: PatchIndex
    layout: Layout

    @property
    def num_crops(self) -> int:
        return len(self.crops)

    @property
    def num_image_tokens(self) -> int:
        return self.patch_index.count

    @property
    def num_text_tokens(self) -> int:
        return len(self.layout.tokens)
