"""HiRED's budgets and regions: its description's numbers, and lists in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.token_reduction import oracles
from tests.token_reduction.pictures import PATCHES, PLAIN, batch_of, random_crops
from visor_jax.models.vision.crop_features import Packing
from visor_jax.token_reduction.crops.hired import HiRED

# Tiles of the pictures: two by two, one by two, and no base.
GRIDS = ((2, 2), (1, 2), None)


def region(place, side, grid, *, official):
    """Returns the tile, row by row, in whose part of the base view a patch lies."""
    rows, columns = grid
    if official:
        return place // (side * side // (rows * columns))
    row, column = place // side // (side // rows), place % side // (side // columns)
    return row * columns + column


@pytest.mark.parametrize("official", [False, True])
def test_regions_are_rectangles_or_runs_of_patches(official):
    """24 x 24 patches of a base view, and four tiles: each has a fourth."""
    per_crop = 576
    # The first row of the stitched tiles ends behind tile 2.
    first = [*range(per_crop), *range(per_crop, per_crop + 24)]
    first += [*range(2 * per_crop, 2 * per_crop + 24), 5 * per_crop]
    rest = [3 * per_crop, 4 * per_crop, 5 * per_crop]
    index = jnp.asarray([first + rest])
    packing = Packing.of(index, None, None, crops=5, per_crop=per_crop)
    assert packing.tile_grid.tolist() == [[2, 2]]
    # So large a share of the base that one of its patches is marked.
    method = HiRED(official=official, base=575 / 576)
    marked = jax.jit(method.marked)
    for place, expected in (
        (0, (0, 0)),
        (12, (1, 0)),
        (6 * 24 - 1, (1, 0)),
        (6 * 24, (0, 1)),
        (12 * 24 - 1, (1, 1)),
        (12 * 24, (2, 2)),
        (575, (3, 3)),
    ):
        tile = region(place, 24, (2, 2), official=official)
        assert tile == expected[official]
        scores = (jnp.arange(per_crop) == place).astype(jnp.float32)[None]
        assert marked(scores, packing).tolist() == [[t == tile for t in range(4)]]


def test_budgets_are_the_authors():
    """Five crops of 576 at 20 %: 288 for the base, 288 divided among tiles."""
    marked = jnp.asarray([[144, 72, 72, 0], [288, 0, 0, 0]])
    patches = jnp.full((2, 5), 576)
    total = jnp.full(2, int(5 * 576 * 0.2))
    found = HiRED(keep=0.2).divided(total, marked, patches)
    assert found.tolist() == [[288, 144, 72, 72, 0], [288, 288, 0, 0, 0]]
    # What is more than a crop has is lost: here all of the base and of tile 1.
    found = HiRED(keep=0.8, base=0.25).divided(
        jnp.full(2, 2304), jnp.asarray([[250, 50, 0, 0]] * 2), patches
    )
    assert found[0].tolist() == [576, 576, 288, 0, 0]


@pytest.mark.parametrize("official", [False, True])
def test_a_tile_keeps_as_many_as_the_base_view_marks(official):
    crops, method = (
        random_crops(batch_of(PLAIN), seed=2),
        HiRED(keep=0.4, official=official),
    )

    @jax.jit
    def run(crops):
        budgets, _ = method.budgets(crops.packing)
        return budgets, method.select(crops, budgets)

    # The random crops have the same attention in both layers.
    budgets, found = run(crops)
    there, scores = np.asarray(crops.packing.there), {}
    for row, crop, _, _, query, key, _ in oracles.crops_of(crops, budgets):
        scores[row, crop] = oracles.received(query, key)
    chosen = {}
    for row, (part, grid) in enumerate(zip(PLAIN, GRIDS, strict=True)):
        each = [int(x) for x in budgets[row]]
        if grid is not None:
            total = sum(each)
            best = oracles.descending(scores[row, 0])[: PATCHES // 2]
            tiles = [region(p, 6, grid, official=official) for p in best]
            base = min(total // 2, PATCHES)
            shares = [
                tiles.count(tile) * (total - base) // len(best)
                for tile in range(part.crops - 1)
            ]
            each = [base, *shares]
        for crop in range(part.crops):
            places = np.flatnonzero(there[row, crop])
            order = oracles.descending(scores[row, crop][places])
            chosen[row, crop] = [places[i] for i in order[: each[crop]]]
    np.testing.assert_array_equal(found.keep, oracles.keep_map(crops, chosen))
