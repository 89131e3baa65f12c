"""Where the patches of an image's crops lie in the image, and maps over all of it.

A wide image in a grid of 1 x 2 tiles, padded above and below (P), and its crops:

    P P P P | P P P P      crop 0   the whole image, squashed
    a a a a | b b b b      crop 1   P and a
    a a a a | b b b b      crop 2   P and b
    P P P P | P P P P

What a layer looks at in any crop is laid over the part of the image that the patch
shows: a patch of crop 0 is large, one of a tile small, and one that shows padding too
counts for what it shows of the image. So a map is of the image itself, whatever its
crops; what lies on padding alone, and on learned newlines, shows nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from visor_jax.batch import Batch
from visor_jax.data.images.anyres import choose_grid, fitted_size
from visor_jax.data.images.image_settings import ImageSettings

# Of a map, on a side: what is finer than that nobody sees, and everybody waits for.
MOST_CELLS = 54


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePlaces:
    """Which cells of a map the patches of every crop fall into.

    down[c, i, r]: share of the patches of row r of crop c that lies in row i of the
    map; across[c, j, k]: the same of columns. A patch's shares add up to 1, or 0 where
    it shows none of the image.
    """

    down: Float64[np.ndarray, "C rows side"]
    across: Float64[np.ndarray, "C columns side"]

    @classmethod
    def of(
        cls, height: int, width: int, settings: ImageSettings, *, crops: Sequence[int]
    ) -> "ImagePlaces":
        """Returns the places of an image that was read as `anyres` does.

        Args:
          height, width: of the image, upright. crops: which were read, ascending:
            (0,) for the whole image alone.
        """
        boxes = _crop_boxes(height, width, settings)[list(crops)]
        # As fine as the tiles' patches are in the image.
        finest = np.abs(boxes[-1, :, 1] - boxes[-1, :, 0]) * _seen(settings)
        sides = np.rint(settings.patches_per_side / finest).astype(int)
        rows, columns = np.clip(sides, 1, MOST_CELLS).tolist()
        return cls(
            np.stack([_shares(box[0], rows, settings) for box in boxes]),
            np.stack([_shares(box[1], columns, settings) for box in boxes]),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return self.down.shape[1], self.across.shape[1]

    def map(
        self, weights: Float[np.ndarray, "V"], batch: Batch, row: int
    ) -> Float[np.ndarray, "rows columns"]:
        """Returns how much was looked at every cell of the image, of one prompt.

        weights: of its image tokens. A token that is a weighted sum of patches counts
        for each of them by its weight. row: of the batch.
        """
        index = np.asarray(batch.image_token_index)[row]
        parts = np.asarray(weights)
        if index.ndim == 2:
            parts = parts[:, None] * np.asarray(batch.image_token_weights)[row]
        valid = np.asarray(batch.image_mask)[row].reshape(-1, *[1] * (index.ndim - 1))
        crops, side = len(self.down), self.down.shape[2]
        shown = valid & (index < crops * side**2)
        flat = np.zeros(crops * side**2)
        np.add.at(flat, index[shown], parts[shown])
        patches = flat.reshape(crops, side, side)
        found = np.einsum("cir,crk,cjk->ij", self.down, patches, self.across)
        return found.astype(np.float32)


def _crop_boxes(
    height: int, width: int, settings: ImageSettings
) -> Float64[np.ndarray, "C 2 2"]:
    """Returns (from, to) of every crop, down and across, in shares of the image."""
    tile = settings.tile_size
    grid = choose_grid(height, width, settings)
    sides = np.array(grid) * tile
    fitted = np.array(fitted_size(height, width, *sides))
    begin = (sides - fitted) // 2
    boxes = [np.array([[0.0, 1.0]] * 2)]
    for place in np.ndindex(*grid):
        first = (np.array(place) * tile - begin) / fitted
        boxes.append(np.stack([first, first + tile / fitted], axis=1))
    return np.stack(boxes)


def _seen(settings: ImageSettings) -> float:
    """Returns the share of a crop that its patches cover; the tower reads no more."""
    return settings.patches_per_side * settings.patch_size / settings.tile_size


def _shares(
    box: Float64[np.ndarray, "2"], cells: int, settings: ImageSettings
) -> Float64[np.ndarray, "cells side"]:
    """Returns how the patches along one side of a crop are shared among cells."""
    begin, end = box
    edges = begin + (end - begin) * _seen(settings) * np.linspace(
        0, 1, settings.patches_per_side + 1
    )
    edges = np.clip(edges, 0, 1)
    bounds = np.linspace(0, 1, cells + 1)
    upper = np.minimum(bounds[1:, None], edges[None, 1:])
    lower = np.maximum(bounds[:-1, None], edges[None, :-1])
    common = np.maximum(upper - lower, 0)
    length = edges[1:] - edges[:-1]
    return np.divide(common, length, out=np.zeros_like(common), where=length > 1e-9)
