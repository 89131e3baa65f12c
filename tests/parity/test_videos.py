"""Frames become the pixels that transformers makes of them, up to one level of 256.

Its processor for videos resizes with PyTorch, whose bicubic weights have fewer bits
than Pillow's; LLaVA-OneVision's own code resizes with Pillow, as `frame_crops` does.
"""

import importlib.util

import numpy as np
import pytest

from tests.data.tiny_llava import image_settings, random_image
from tests.tolerances import ONE_LEVEL
from visor_jax.data.images.anyres import frame_crops

pytestmark = pytest.mark.parity


def reference(frames, settings):
    """Returns what `LlavaOnevisionVideoProcessor` makes of a clip; (F, t, t, 3)."""
    side, video = settings.tile_size, np.stack(frames)
    if importlib.util.find_spec("torchvision") is not None:
        from transformers import LlavaOnevisionVideoProcessor

        processor = LlavaOnevisionVideoProcessor(
            size={"height": side, "width": side},
            image_mean=list(settings.mean),
            image_std=list(settings.std),
        )
        found = processor(videos=[video], return_tensors="np")
        return found["pixel_values_videos"][0].transpose(0, 2, 3, 1)
    # There is none without torchvision: these are the two steps that it takes, with
    # which it was compared where there is one.
    import torch

    resized = torch.nn.functional.interpolate(
        torch.tensor(video).permute(0, 3, 1, 2),
        size=(side, side),
        mode="bicubic",
        antialias=True,
    )
    pixels = resized.permute(0, 2, 3, 1).numpy().astype(np.float32)
    mean, std = 255 * np.array([settings.mean, settings.std], np.float32)
    return (pixels - mean) / std


@pytest.mark.parametrize("tile", [56, 60])
@pytest.mark.parametrize("size", [(40, 70), (120, 90), (56, 56), (11, 300)])
def test_frames_become_the_pixels_of_transformers(tile, size):
    settings = image_settings(tile)
    frames = [random_image(*size, seed) for seed in range(3)]
    found, expected = frame_crops(frames, settings), reference(frames, settings)
    np.testing.assert_allclose(found, expected, **ONE_LEVEL)
    # Rounding to a level falls the other way now and then, as often up as down.
    assert np.abs((found - expected).mean()) < 1e-3
    assert (np.abs(found - expected) > 1e-3).mean() < 0.3


def test_a_level_is_all_that_is_allowed():
    settings = image_settings()
    frames = [random_image(40, 70)]
    brighter = [np.clip(frames[0].astype(int) + 2, 0, 255).astype(np.uint8)]
    found, expected = frame_crops(brighter, settings), reference(frames, settings)
    assert not np.allclose(found, expected, **ONE_LEVEL)
