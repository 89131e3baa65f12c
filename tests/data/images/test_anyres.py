"""Crops are those of the PIL backend of transformers, bit by bit."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from tests.data.tiny_llava import (
    SIZES,
    hf_image_processor,
    image_settings,
    random_image,
)
from visor_jax.data.images.anyres import (
    anyres_crops,
    choose_grid,
    frame_crops,
    square_crops,
)
from visor_jax.data.images.image_settings import ImageSettings


def hf_crops(images, settings):
    """Returns (n, C, t, t, 3): a list of lists, as transformers tells modes apart."""
    pictures = [Image.fromarray(image) for image in images]
    found = hf_image_processor(settings)([pictures], return_tensors="np")
    return found["pixel_values"].transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize("tile", [56, 60])
@pytest.mark.parametrize("size", SIZES)
def test_one_image(size, tile):
    settings, image = image_settings(tile), random_image(*size)
    found = anyres_crops(image, settings)
    np.testing.assert_array_equal(found, hf_crops([image], settings)[0])
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [(480, 640), (899, 1024), (224, 300)])
def test_one_image_at_the_real_size(size):
    settings, image = ImageSettings(), random_image(*size)
    found, expected = anyres_crops(image, settings), hf_crops([image], settings)[0]
    assert np.array_equal(found, expected)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
def test_one_image_of_any_size_and_normalisation(height, width, seed):
    settings = dataclasses.replace(
        image_settings(tile=9, patch=4, side=3),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    image = random_image(height, width, seed)
    expected = hf_crops([image], settings)[0]
    np.testing.assert_array_equal(anyres_crops(image, settings), expected)


@pytest.mark.parametrize("mean", [0.5, 0.4578275])
def test_several_images(mean):
    settings = dataclasses.replace(image_settings(), mean=(mean, 0.5, 0.3))
    images = [random_image(*size) for size in SIZES]
    found = square_crops(images, settings)
    np.testing.assert_array_equal(found, hf_crops(images, settings)[:, 0])


def test_frames_are_squashed():
    """The base crop of an image is resized like a frame."""
    settings = image_settings()
    frames = [random_image(40, 90, seed) for seed in range(3)]
    expected = [hf_crops([frame], settings)[0, 0] for frame in frames]
    np.testing.assert_array_equal(frame_crops(frames, settings), expected)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_grids_are_those_of_transformers(height, width):
    settings = ImageSettings()
    points = [list(point) for point in settings.pinpoints]
    expected = select_best_resolution((height, width), points)
    rows, columns = choose_grid(height, width, settings)
    assert (384 * rows, 384 * columns) == expected


CONFIG = {
    "vision_config": {"image_size": 384, "patch_size": 14},
    "image_grid_pinpoints": [[384, 384], [384, 768]],
    "vision_aspect_ratio": "anyres_max_4",
}
PROCESSOR = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.5, 0.5, 0.25],
    "image_std": [0.5, 0.5, 0.5],
    "image_grid_pinpoints": [[384, 384], [384, 768]],
    "do_resize": True,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}


@pytest.mark.parametrize("processor", [PROCESSOR, {"image_processor": PROCESSOR}])
def test_settings_of_a_checkpoint(processor):
    assert ImageSettings.from_hf(CONFIG, processor) == ImageSettings(
        pinpoints=((384, 384), (384, 768)), max_tiles=4, mean=(0.5, 0.5, 0.25)
    )


def test_settings_written_by_transformers_are_read():
    settings = image_settings()
    config = {
        "vision_config": {"image_size": 56, "patch_size": 14},
        "image_grid_pinpoints": [list(point) for point in settings.pinpoints],
    }
    written = hf_image_processor(settings).to_dict()
    assert ImageSettings.from_hf(config, written) == settings


@pytest.mark.parametrize(
    ("config", "processor", "message"),
    [
        ({}, {"image_mean": None}, "does not state image_mean"),
        ({"vision_config": {"image_size": 384}}, {}, "does not state patch_size"),
        ({"image_grid_pinpoints": None}, {}, "image_grid_pinpoints"),
        ({}, {"image_grid_pinpoints": [[384, 384]]}, "config and processor differ"),
        ({}, {"size": {"shortest_edge": 384}}, "processor size"),
        ({"vision_aspect_ratio": "pad"}, {}, "'pad' is not anyres_max_<n>"),
        ({}, {"do_rescale": False}, "do_rescale=False is not supported"),
        ({}, {"resample": 2}, "resample=2 is not supported, only 3"),
    ],
)
def test_another_processing_is_refused(config, processor, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings.from_hf({**CONFIG, **config}, {**PROCESSOR, **processor})


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 385},
        {"max_tiles": 0},
        {"pinpoints": ()},
        {"pinpoints": ((384, 400),)},
        {"std": (0.5, 0.0, 0.5)},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match="ImageSettings"):
        ImageSettings(**changes)
