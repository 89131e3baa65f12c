"""Random patches whose packing is known, for tests with and without PyTorch.

The golden file holds what transformers makes of them. To write it again:

    PYTHONPATH=. python -m tests.parity.packing_reference
"""

from pathlib import Path

import numpy as np

from tests.data.tiny_llava import SIZES, image_settings
from visor_jax.data.images.anyres import choose_grid
from visor_jax.data.images.image_settings import ImageSettings

WIDTH = 3
GOLDEN = Path(__file__).parent / "golden/packed_features.npz"
FRAMES = (1, 3)
NEWLINE = np.array([7.0, -8.0, 9.0], np.float32)
# The last crop size leaves 2 patches per side: halved to one per frame.
SETTINGS = {
    "56": image_settings(56),
    "60": image_settings(60, patch=12),
    "28": image_settings(28),
}


def patches_of(crops: int, settings: ImageSettings, seed: int = 0) -> np.ndarray:
    """Returns (crops, P, WIDTH) random patches."""
    rng = np.random.default_rng([seed, crops, settings.patches_per_crop])
    shape = (crops, settings.patches_per_crop, WIDTH)
    return rng.normal(size=shape).astype(np.float32)


def image_cases() -> dict[str, tuple[ImageSettings, tuple[int, int], np.ndarray]]:
    """Returns {name: (settings, (height, width), patches of all crops)}."""
    cases = {}
    for name, settings in SETTINGS.items():
        for size in SIZES:
            rows, columns = choose_grid(*size, settings)
            patches = patches_of(1 + rows * columns, settings)
            cases[f"image_{name}_{size[0]}x{size[1]}"] = (settings, size, patches)
    return cases


def video_cases() -> dict[str, tuple[ImageSettings, np.ndarray]]:
    """Returns {name: (settings, patches of all frames)}."""
    return {
        f"video_{name}_{frames}": (settings, patches_of(frames, settings))
        for name, settings in SETTINGS.items()
        for frames in FRAMES
    }
