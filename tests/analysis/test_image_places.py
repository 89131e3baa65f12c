"""A map over an image: each patch counts where the pixels that it was made of lie."""

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.data import tiny_llava
from visor_jax.analysis.image_places import MOST_CELLS, ImagePlaces
from visor_jax.data.images.anyres import anyres_crops, choose_grid
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import NEWLINE, anyres_patch_index

SETTINGS = tiny_llava.image_settings(56, 14, side=3)
# 27 patches of 14 pixels: six of a crop's pixels are read by none.
ROUGH = ImageSettings(pinpoints=((384, 384), (384, 768), (768, 384)))
# One tile, wide and tall with padding, an exact grid, resized patches.
SIZES = [(40, 50), (200, 330), (330, 150), (112, 168), (700, 690)]
GONE = 10**6


def seen_pixels(height, width, settings):
    """Returns the number of the image's pixel under each pixel of each crop, or -1."""
    tile, numbers = settings.tile_size, np.arange(height * width, dtype=np.int32)
    picture = Image.fromarray(numbers.reshape(height, width))
    rows, columns = choose_grid(height, width, settings)
    scale = min(rows * tile / height, columns * tile / width)
    size = (
        min(columns * tile, round(width * scale + 0.499)),
        min(rows * tile, round(height * scale + 0.499)),
    )
    fitted = np.asarray(picture.resize(size, Image.Resampling.NEAREST))
    canvas = np.full((rows * tile, columns * tile), -1)
    top, left = [(a - b) // 2 for a, b in zip(canvas.shape, fitted.shape, strict=True)]
    canvas[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    crops = [np.asarray(picture.resize((tile, tile), Image.Resampling.NEAREST))]
    for row in range(rows):
        for column in range(columns):
            part = canvas[row * tile : (row + 1) * tile]
            crops.append(part[:, column * tile : (column + 1) * tile])
    return crops


def placed(masses, height, width, settings, shape):
    """Returns masses (C, side, side) of patches, spread over the pixels they show."""
    size, image = settings.patch_size, np.zeros(height * width)
    for crop, own in zip(seen_pixels(height, width, settings), masses, strict=True):
        for (row, column), mass in np.ndenumerate(own):
            rows = slice(row * size, (row + 1) * size)
            shown = crop[rows, column * size : (column + 1) * size]
            shown = shown[shown >= 0]
            if len(shown):
                np.add.at(image, shown, mass / len(shown))
    cells = np.zeros(shape)
    for (y, x), mass in np.ndenumerate(image.reshape(height, width)):
        # A pixel lies in the cell of its middle.
        row, column = (y + 0.5) / height * shape[0], (x + 0.5) / width * shape[1]
        cells[int(row), int(column)] += mass
    return cells


def batch_of(index):
    """Returns what a map reads of a batch with these image tokens."""
    numbers = np.where(index.index == NEWLINE, GONE, index.index)
    weights = None if index.weights is None else index.weights[None]
    mask = np.ones((1, index.count), bool)
    return tiny.random_batch(tiny.NETWORKS["visor"]).replace(
        image_token_index=numbers[None], image_token_weights=weights, image_mask=mask
    )


def masses_of(index, weights, settings):
    """Returns (C, side, side): what the tokens' weights come to on each patch."""
    found = np.zeros((index.crops, settings.patches_per_crop))
    for token, weight in enumerate(weights):
        own = np.atleast_1d(index.index[token])
        shares = [1.0] if index.weights is None else index.weights[token]
        for patch, share in zip(own, shares, strict=True):
            if patch != NEWLINE:
                found.reshape(-1)[patch] += weight * share
    side = settings.patches_per_side
    return found.reshape(-1, side, side)


@pytest.mark.parametrize("size", SIZES)
def test_a_map_is_that_of_the_pixels_under_each_patch(size):
    index = anyres_patch_index(*size, SETTINGS)
    weights = np.random.default_rng(3).uniform(size=index.count)
    places = ImagePlaces.of(*size, SETTINGS, crops=range(index.crops))
    found = places.map(weights, batch_of(index), 0)
    masses = masses_of(index, weights, SETTINGS)
    # Pixels are whole and edges are not: finer pictures, closer maps.
    large = tuple(7 * side for side in size) if size[0] < 300 else size
    if choose_grid(*large, SETTINGS) != choose_grid(*size, SETTINGS):
        large = size
    wanted = placed(masses, *large, SETTINGS, found.shape)
    np.testing.assert_allclose(found.sum(), masses.sum(), rtol=1e-5)
    assert np.abs(found - wanted).mean() < 0.08 * wanted.mean()
    turned = ImagePlaces.of(*size[::-1], SETTINGS, crops=range(index.crops))
    if index.crops > 2 and size[0] != size[1]:
        other = turned.map(weights, batch_of(index), 0).T
        assert other.shape != found.shape or np.abs(other - wanted).mean() > 0.2 * (
            wanted.mean()
        )


@pytest.mark.parametrize("settings", [SETTINGS, ROUGH])
@pytest.mark.parametrize("place", [(0.2, 0.7), (0.85, 0.1), (0.5, 0.45)])
def test_what_is_bright_in_the_crops_is_bright_at_its_place(settings, place):
    height, width = 3 * settings.tile_size // 2, 2 * settings.tile_size
    pixels = np.zeros((height, width, 3), np.uint8)
    rows, columns = (
        slice(int((at - 0.04) * side), int((at + 0.04) * side))
        for at, side in zip(place, (height, width), strict=True)
    )
    pixels[rows, columns] = 255
    crops = anyres_crops(pixels, settings) * 0.5 + 0.5
    side, size = settings.patches_per_side, settings.patch_size
    seen = crops[:, : side * size, : side * size, 0]
    bright = seen.reshape(len(crops), side, size, side, size).mean(axis=(2, 4))
    index = anyres_patch_index(height, width, settings)
    places = ImagePlaces.of(height, width, settings, crops=range(len(crops)))
    tokens = np.where(index.index == NEWLINE, 0, index.index)
    weights = bright.reshape(-1)[tokens]
    if index.weights is not None:
        weights = (weights * index.weights).sum(axis=1)
    ends = (index.index == NEWLINE).reshape(index.count, -1)[:, 0]
    weights = np.where(ends, 0, weights)
    is_base = np.arange(index.count) < settings.patches_per_crop
    for part in (is_base, ~is_base):
        found = places.map(weights * part, batch_of(index), 0)
        centre = [
            np.average((np.arange(count) + 0.5) / count, weights=found.sum(axis=axis))
            for axis, count in ((1, found.shape[0]), (0, found.shape[1]))
        ]
        # Half a patch of the whole image; of the tiles it is finer.
        np.testing.assert_allclose(centre, place, atol=0.5 / side)


def test_the_whole_image_alone_is_a_map_of_its_patches():
    index = anyres_patch_index(56, 56, SETTINGS)
    places = ImagePlaces.of(56, 80, SETTINGS, crops=(0,))
    weights = np.zeros(index.count)
    weights[:16] = np.arange(16)
    found = places.map(weights, batch_of(index), 0)
    np.testing.assert_allclose(found, np.arange(16).reshape(4, 4), rtol=1e-6)


def test_chosen_tiles_lie_where_they_do_among_all():
    settings = ImageSettings(pinpoints=((384 * 2, 384 * 2),))
    every = ImagePlaces.of(768, 768, settings, crops=range(5))
    chosen = ImagePlaces.of(768, 768, settings, crops=(0, 2, 3))
    for some, all_ in ((chosen.down, every.down), (chosen.across, every.across)):
        np.testing.assert_array_equal(some, all_[[0, 2, 3]])
        assert (some != all_[:3]).any()


def test_maps_are_no_finer_than_can_be_seen():
    settings = ImageSettings(pinpoints=((384 * 2, 384 * 6),))
    places = ImagePlaces.of(768, 2304, settings, crops=range(13))
    assert places.shape == (MOST_CELLS, MOST_CELLS)
    assert ImagePlaces.of(768, 2304, settings, crops=(0,)).shape == (27, 27)
