"""Mirrored pictures: which rows have them, what they are, and again."""

import dataclasses

import numpy as np
import pytest

from tests.data.conversations import conversation_set
from tests.data.conversations.conversation_set import opened
from tests.data.conversations.test_training_batches import assert_same
from visor_jax.data.conversations.mirror_draw import MirrorDraw

STEPS = 12


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    # As large as a crop: whole pictures are mirrored by mirroring their only tile.
    side = conversation_set.TILE
    folder = tmp_path_factory.mktemp("set")
    converted = conversation_set.draw(folder, 40, sizes=((side, side),))
    return opened(converted, folder / "cache", steps=STEPS)


@pytest.fixture(scope="module")
def mirrored(plain):
    settings = dataclasses.replace(plain.settings, mirrors=True)
    return dataclasses.replace(plain, settings=settings)


def test_half_of_the_rows_are_mirrored_and_their_text_is_not(plain, mirrored):
    drawn, count = [], 0
    draw = MirrorDraw(seed=plain.seed)
    for step in range(STEPS):
        before = plain.source()[step]["batch"]
        after = mirrored.source()[step]["batch"]
        flipped = np.array([draw.is_mirrored(step, row) for row in range(before.size)])
        expected = np.where(
            flipped[:, None, None, None, None],
            before.pixels[:, :, :, ::-1],
            before.pixels,
        )
        np.testing.assert_array_equal(after.pixels, expected)
        assert_same(after.replace(pixels=0), before.replace(pixels=0))
        drawn += flipped.tolist()
        count += before.image_mask.any()
    assert count
    # Of 48 rows; further off once in 10,000 seeds.
    assert 10 < sum(drawn) < 38


def test_the_same_step_comes_back_and_processes_read_their_rows(mirrored):
    for step in (0, 7):
        batch = mirrored.source()[step]["batch"]
        assert_same(batch, mirrored.source()[step]["batch"])
        parts = [mirrored.source(slice(i, i + 2)) for i in (0, 2)]
        halves = [part[step]["batch"].pixels for part in parts]
        np.testing.assert_array_equal(np.concatenate(halves), batch.pixels)


def test_the_digest_tells_mirrored_pictures(plain, tmp_path):
    entry = plain.mixture[0].manifest.directory
    other = opened(entry, tmp_path, steps=STEPS, mirrors=True)
    assert other.digest != plain.digest
    assert opened(entry, tmp_path, steps=STEPS).digest == plain.digest
