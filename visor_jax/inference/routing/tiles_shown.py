"""Which tile each patch of a base view shows, and what is read of the tiles by it.

    base view, 6 x 6 patches, an image of 2 x 2 tiles     1 | 2     3 x 3 patches each
                                                          3 | 4

The base view is the whole image, squashed; behind it the tokens of the tiles are the
image row by row, padding left out, so that places in both are shares of the image.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int32

from visor_jax.data.images.patch_index import NEWLINE, PatchIndex
from visor_jax.policy.tile_scorer import TileFeatures

_REMEDY = "its tiles cannot be chosen: look at 'base' or 'all', or name tiles"


def tile_of_patches(index: PatchIndex, patches: int) -> Int32[np.ndarray, "patches"]:
    """Returns the tile that each patch of an image's base view shows, from 1.

    A tile of which no patch has its middle, a sliver of one, is shown by none.

    Args:
      index: of all crops of one image. patches: of a crop.

    Raises:
      ValueError: for tokens that are no base view and rows of tiles, or an image so
        thin that its tiles are padding alone.
    """
    tokens = index.index
    if index.weights is not None:
        most = index.weights.argmax(axis=1)
        tokens = np.take_along_axis(tokens, most[:, None], axis=1)[:, 0]
    base, rest = tokens[:patches], tokens[patches:]
    rows = int((rest == NEWLINE).sum())
    if not rows or len(rest) % rows or not ((base >= 0) & (base < patches)).all():
        raise ValueError(
            f"{len(tokens)} image tokens, {rows} newlines among them, are no base view "
            f"of {patches} and rows of tiles: {_REMEDY}."
        )
    grid = rest.reshape(rows, -1)[:, :-1] // patches
    if not grid.size:
        raise ValueError(
            f"The image is so thin that {index.crops - 1} tiles show none of it: "
            f"{_REMEDY}."
        )
    side = round(patches**0.5)
    # Of the middle of each patch.
    middle = 2 * np.arange(side) + 1
    down, across = (middle * length // (2 * side) for length in grid.shape)
    return grid[down][:, across].reshape(-1).astype(np.int32)


def features_of_tiles(
    words: Float[np.ndarray, "B R D"],
    image: Float[np.ndarray, "B V D"],
    looks: Mapping[int, Float[np.ndarray, "B R V"]],
    shown: Int32[np.ndarray, "P"],
    tiles: int,
) -> TileFeatures:
    """Returns what is read of B base views for R questions each, B R rows.

    Args:
      words, image, looks: of `read_base_view`; patches first among V. shown: of
        `tile_of_patches`, the same for all. tiles: of the images.
    """
    asked, patches = words.shape[1], len(shown)
    parts = (shown[:, None] == np.arange(1, tiles + 1)).astype(np.float32)
    counts = np.maximum(parts.sum(axis=0), 1)[:, None]
    hidden = np.swapaxes(parts, 0, 1) @ np.asarray(image)[:, :patches] / counts
    layers = [np.asarray(each)[..., :patches] @ parts for each in looks.values()]
    attention = np.stack(layers, axis=-1)
    return TileFeatures(
        question=np.asarray(words).reshape(-1, words.shape[-1]),
        tiles=np.repeat(hidden, asked, axis=0),
        looks=attention.reshape(-1, *attention.shape[2:]),
    )
