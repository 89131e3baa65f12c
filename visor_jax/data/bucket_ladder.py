"""The shapes that buckets come in: for text alone, an image, several, and a video."""

import itertools

from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import (
    CORNERS,
    resized_shape,
    square_patch_index,
    video_patch_index,
)

# A bucket holds at most so many times the crops of the bucket below it.
_GROWTH = 1.5


def ladder_shapes(
    settings: ImageSettings, *, max_images: int, max_frames: int
) -> set[tuple[int, int, int]]:
    """Returns (crops, image tokens, patches per token) of all buckets.

    Args:
      max_images, max_frames: of the largest bucket for several images, for a video; 0
        for none.
    """
    shapes = {(1, 1, 1), *_image_rungs(settings)}
    per_image = square_patch_index(settings).count
    for images in _doubling(2, max_images):
        shapes.add((images, images * per_image, 1))
    for frames in _doubling(8, max_frames):
        shapes.add((frames, video_patch_index(frames, settings).count, CORNERS))
    return shapes


def look_tokens(settings: ImageSettings, crops: int) -> int:
    """Returns the most image tokens of a look at so many crops of an image.

    Every tile ends at most as many rows of the grid as it has; an image of one crop is
    closed by one newline.
    """
    newlines = max((crops - 1) * settings.patches_per_side, 1)
    return crops * settings.patches_per_crop + newlines


def crop_rungs(crops: int) -> tuple[int, ...]:
    """Returns 1, 2, 3, 4, 6, 9, ... up to `crops`, which ends it: sizes of looks."""
    rungs = [1]
    while rungs[-1] < crops:
        rungs.append(min(crops, max(rungs[-1] + 1, int(rungs[-1] * _GROWTH))))
    return tuple(rungs)


def _doubling(first: int, last: int) -> list[int]:
    """Returns first, 2 * first, ... up to `last`, which ends it; [] if last is 0."""
    steps = itertools.takewhile(lambda n: n < last, (first << i for i in range(64)))
    return [*steps, last] if last else []


def _image_rungs(settings: ImageSettings) -> set[tuple[int, int, int]]:
    """Returns (crops, image tokens, corners) for one image of any size.

    A rung holds every image of up to so many crops: the most tokens that any of them
    can have, and weights if any of them is resized.
    """
    need: dict[int, tuple[int, int]] = {}
    for height, width in settings.pinpoints:
        grid = height // settings.tile_size, width // settings.tile_size
        crops = 1 + grid[0] * grid[1]
        tokens, corners = _most_tokens(*grid, settings)
        others = need.get(crops, (0, 1))
        need[crops] = (max(tokens, others[0]), max(corners, others[1]))
    rungs, counts = set(), sorted(need)
    last = 0
    while last < counts[-1]:
        above = [n for n in counts if n > last]
        last = max([above[0], *(n for n in above if n <= last * _GROWTH)])
        below = [need[n] for n in counts if n <= last]
        rungs.add((last, max(t for t, _ in below), max(c for _, c in below)))
    return rungs


def _most_tokens(rows: int, columns: int, settings: ImageSettings) -> tuple[int, int]:
    """Returns the most tokens of an image in that grid, and corners per token.

    Padding is cut off in pairs of rows or of columns, so these are all that exist.
    """
    side = settings.patches_per_side
    rows, columns = rows * side, columns * side
    shapes = [(n, columns) for n in range(rows, -1, -2)]
    shapes += [(rows, n) for n in range(columns, -1, -2)]
    resized = [resized_shape(*shape, settings) for shape in shapes]
    tokens = max(r * (c + 1) for r, c in resized)
    corners = 1 if resized == shapes else CORNERS
    return settings.patches_per_crop + tokens, corners
