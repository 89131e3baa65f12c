"""One conversation as the network takes it: pictures, and where every token stands.

Crops of its image can be left out, by two rules (S: text, V: tokens of the base view,
t: of a tile that is looked at, x: of one that is not):

    all crops       S S V V x x t t S S S
    of_crops        S S V V . . t t S S S     every token where it stands among all
    base_alone      S S V V N S S S           as an image of one crop: closed by the
                                              newline, and the text after it comes near
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from visor_jax.data.images.patch_index import NEWLINE, PatchIndex
from visor_jax.data.prompts.token_layout import Layout


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One conversation as the network takes it, not yet padded.

    crops: (C, t, t, 3) of all images and video frames, in the order of the prompt.
    patch_index: which patches make the image tokens. layout: both streams of tokens.
    image_places: which of all tokens of its image each one is (`Batch.image_places`);
      None where all are there. looked_at: which crops of its image are left, where some
      are not. image_crops: how many it has. image_key: `CutImage.key`, where its crops
      and tokens are all those of one picture.
    """

    crops: Float32[np.ndarray, "C t t 3"]
    patch_index: PatchIndex
    layout: Layout
    image_places: Int32[np.ndarray, "V"] | None = None
    looked_at: tuple[int, ...] | None = None
    image_crops: int | None = None
    image_key: bytes | None = None

    @property
    def num_crops(self) -> int:
        return len(self.crops)

    @property
    def num_image_tokens(self) -> int:
        return self.patch_index.count

    @property
    def num_text_tokens(self) -> int:
        return len(self.layout.tokens)

    @property
    def has_gaps(self) -> bool:
        """Whether neighbours in memory may be none in the image: not in a base view."""
        places = self.image_places
        return places is not None and bool((places != np.arange(len(places))).any())

    @property
    def has_tiles(self) -> bool:
        """Whether crops can be left out: of one image cut into a base view and tiles.

        Several images have one crop each, and those of a video are its frames.
        """
        return self.num_crops > 1 and [kind for kind, _ in self.layout.media] == [
            "image"
        ]

    def of_crops(self, crops: Sequence[int], patches_per_crop: int) -> "Sample":
        """Returns the sample with these crops of its image alone; text never moves.

        Its own self for all of them. Which tokens stay `PatchIndex.of_crops` says; they
        keep their order, as if all were there.

        Args:
          crops: ascending; 0 is the base view, n the tile n.

        Raises:
          ValueError: for crops that do not exist, none at all, or a sample without
            tiles or from which crops have been left out before.
        """
        self._check_tiles()
        index, kept = self.patch_index.of_crops(crops, patches_per_crop)
        if not index.crops:
            raise ValueError("A look needs at least one crop: 0 is the base view.")
        if index.crops == self.num_crops:
            return self
        places = self.layout.image_positions[kept]
        return Sample(
            crops=self.crops[list(crops)],
            patch_index=index,
            layout=dataclasses.replace(self.layout, image_positions=places),
            image_places=kept,
            looked_at=tuple(crops),
            image_crops=self.num_crops,
        )

    def base_alone(self, patches_per_crop: int) -> "Sample":
        """Returns the sample as if its image were one crop: the base view.

        The form that checkpoints know of images with one crop: its patches, a newline
        (where the sample has any), and the text right behind them. The crop is the
        whole image, squashed, as the base view is.

        Raises:
          ValueError: as `of_crops`.
        """
        self._check_tiles()
        index, _ = self.patch_index.of_crops([0], patches_per_crop)
        patches = index.index
        if (self.patch_index.index == NEWLINE).any():
            patches = np.append(patches, np.int32(NEWLINE))
        old, text = self.layout.image_positions, self.layout.text_positions
        gone = np.int32(len(old) - len(patches))
        layout = dataclasses.replace(
            self.layout,
            image_positions=old[: len(patches)],
            text_positions=np.where(text > old[0], text - gone, text),
        )
        return Sample(
            crops=self.crops[:1],
            patch_index=PatchIndex(patches, None, 1),
            layout=layout,
            looked_at=(0,),
            image_crops=self.num_crops,
        )

    def _check_tiles(self) -> None:
        if not self.has_tiles or self.looked_at is not None:
            kinds = [kind for kind, _ in self.layout.media]
            raise ValueError(
                f"Crops can be left out of one image with all of its tiles; this is a "
                f"sample of {self.num_crops} crops of {kinds or 'no image'}"
                f"{'' if self.looked_at is None else ', some of them gone before'}."
            )
