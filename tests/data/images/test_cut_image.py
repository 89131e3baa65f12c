"""A picture that comes again is cut once; whatever differs is told apart."""

import dataclasses

import numpy as np
import pytest

from tests.data.tiny_llava import image_settings, random_image
from visor_jax.data.images import cut_image as module
from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.images.cut_image import KeptCuts, cut_image
from visor_jax.data.images.patch_index import anyres_patch_index

SETTINGS = image_settings(56)


@pytest.fixture
def cuts(monkeypatch):
    """The pictures that were really cut."""
    seen = []

    def counted(pixels, settings):
        seen.append(pixels)
        return cut_image(pixels, settings)

    monkeypatch.setattr(module, "cut_image", counted)
    return seen


def test_it_is_what_the_parts_give(cuts):
    image = random_image(60, 90)
    for made in (cut_image(image, SETTINGS), KeptCuts(10**9)(image, SETTINGS)):
        np.testing.assert_array_equal(made.crops, anyres_crops(image, SETTINGS))
        expected = anyres_patch_index(60, 90, SETTINGS)
        np.testing.assert_array_equal(made.patch_index.index, expected.index)
        assert made.patch_index.crops == expected.crops


def test_the_same_pixels_are_cut_once_wherever_they_come_from(cuts):
    keeping, image = KeptCuts(10**9), random_image(60, 90)
    first = keeping(image, SETTINGS)
    # Another array, and one whose rows do not lie side by side.
    wide = np.concatenate([image, image], axis=1)
    for again in (image.copy(), wide[:, :90]):
        assert keeping(again, SETTINGS) is first
    assert len(cuts) == 1
    assert cut_image(image, SETTINGS).key is None


def test_an_array_that_was_written_into_is_another_picture(cuts):
    keeping, image = KeptCuts(10**9), random_image(60, 90)
    first = keeping(image, SETTINGS)
    image[3, 4, 1] ^= 1
    second = keeping(image, SETTINGS)
    assert second.key != first.key
    np.testing.assert_array_equal(second.crops, anyres_crops(image, SETTINGS))
    assert len(cuts) == 2


def test_shape_and_settings_tell_pictures_apart(cuts):
    keeping, image = KeptCuts(10**9), random_image(60, 90)
    turned = image.reshape(90, 60, 3)
    darker = dataclasses.replace(SETTINGS, mean=(0.4, 0.4, 0.4))
    made = [keeping(image, SETTINGS), keeping(turned, SETTINGS), keeping(image, darker)]
    assert len(cuts) == 3
    assert made[0].key != made[1].key
    assert not np.array_equal(made[0].crops, made[2].crops)


def test_what_is_kept_is_bounded_and_cannot_be_changed(cuts):
    images = [random_image(56, 56, seed) for seed in range(3)]
    size = cut_image(images[0], SETTINGS).crops.nbytes
    keeping = KeptCuts(2 * size)
    for number in (0, 1, 0, 2, 0, 1):
        made = keeping(images[number], SETTINGS)
        with pytest.raises(ValueError, match="read-only"):
            made.crops[0] = 0
    # The third picture took the place of the second, which came back for its own.
    order = [next(i for i, x in enumerate(images) if x is seen) for seen in cuts]
    assert order == [0, 1, 2, 1]


def test_pictures_that_are_let_go_are_cut_again(cuts):
    keeping, image = KeptCuts(10**9), random_image(60, 90)
    first = keeping(image, SETTINGS)
    keeping.clear()
    assert keeping(image, SETTINGS) is not first
    # Without room nothing is kept.
    for _ in range(2):
        assert KeptCuts(0)(image, SETTINGS).key == first.key
    assert len(cuts) == 4
