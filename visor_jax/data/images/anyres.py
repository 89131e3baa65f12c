"""Images of any size as crops of one size: LLaVA-OneVision's anyres, bit by bit.

One image of a prompt is fitted into a grid of tiles and padded with black; the whole
image, squashed to one tile, comes first. A wide image in a grid of 1 x 2:

    crops    0: the whole image      1: left tile      2: right tile

Several images of a prompt become one crop each, padded to a square; so does every frame
of a video, squashed. Resizing is Pillow's (as in the PIL backend of transformers).
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.read_image import MAX_PIXELS

Pixels = UInt8[np.ndarray, "h w 3"]


def choose_grid(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Returns (rows, columns) of tiles for an image of that size.

    The grid that shows most of the image's own pixels wins; of those the one that
    wastes least; of those the first. Source: `select_best_resolution` of transformers,
    whose float arithmetic this follows.
    """
    best, best_key = (0, 0), None
    for grid_height, grid_width in settings.pinpoints:
        scale = min(grid_width / width, grid_height / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        key = (shown, shown - grid_height * grid_width)
        if best_key is None or key > best_key:
            best, best_key = (grid_height, grid_width), key
    return best[0] // settings.tile_size, best[1] // settings.tile_size


def fitted_size(
    height: int, width: int, grid_height: int, grid_width: int
) -> tuple[int, int]:
    """Returns (height, width) of the image inside the grid, proportions kept."""
    scale_width, scale_height = grid_width / width, grid_height / height
    if scale_width < scale_height:
        return min(math.ceil(height * scale_width), grid_height), grid_width
    return grid_height, min(math.ceil(width * scale_height), grid_width)


def anyres_crops(
    pixels: Pixels, settings: ImageSettings
) -> Float32[np.ndarray, "C t t 3"]:
    """Returns the crops of one image: the whole of it, then its tiles row by row."""
    tile = settings.tile_size
    rows, columns = choose_grid(*pixels.shape[:2], settings)
    canvas = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    fitted = _resized(pixels, *fitted_size(*pixels.shape[:2], *canvas.shape[:2]))
    _paste_centred(canvas, fitted)
    tiles = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    whole = _resized(pixels, tile, tile)
    crops = np.concatenate([whole[None], tiles.reshape(-1, *whole.shape)])
    return _normalised(crops, settings)


def square_crops(
    images: Sequence[np.ndarray], settings: ImageSettings
) -> Float32[np.ndarray, "C t t 3"]:
    """Returns one crop per image, padded to a square with the mean colour.

    Raises:
      ValueError: for an image so long and thin that its square would fill the memory.
    """
    crops = []
    for pixels in images:
        side = max(pixels.shape[:2])
        if side * side > MAX_PIXELS:
            height, width = pixels.shape[:2]
            raise ValueError(
                f"An image of {width} x {height}, padded to a square, has more than "
                f"{MAX_PIXELS:,} pixels: cut it, or make it smaller."
            )
        canvas = np.empty((side, side, 3), np.uint8)
        canvas[:] = [int(mean * 255) for mean in settings.mean]
        _paste_centred(canvas, pixels)
        crops.append(_resized(canvas, settings.tile_size, settings.tile_size))
    return _normalised(np.stack(crops), settings)


def frame_crops(
    frames: Iterable[np.ndarray], settings: ImageSettings
) -> Float32[np.ndarray, "C t t 3"]:
    """Returns one crop per frame of a video, resized without regard to proportions."""
    tile = settings.tile_size
    crops = np.stack([_resized(frame, tile, tile) for frame in frames])
    return _normalised(crops, settings)


def _resized(
    pixels: Pixels, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _paste_centred(canvas: UInt8[np.ndarray, "rows columns 3"], pixels: Pixels) -> None:
    """Writes the image into the middle; an odd pixel of margin goes below or right."""
    height, width = pixels.shape[:2]
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = pixels


def _normalised(
    crops: UInt8[np.ndarray, "C t t 3"], settings: ImageSettings
) -> Float32[np.ndarray, "C t t 3"]:
    """Returns (x / 255 - mean) / std, rounded as in transformers."""
    table = _normalisation(settings.mean, settings.std)
    return np.stack([table[c][crops[..., c]] for c in range(3)], axis=-1)


@functools.cache
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "3 256"]:
    """Returns the normalised value of each of the 256 levels of each colour."""
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    centred = levels - np.array(mean, np.float32)[:, None]
    return centred / np.array(std, np.float32)[:, None]
