"""The one picture of a prompt, cut: its crops, and the image tokens that they make.

Whoever is asked many questions about a picture cuts it once: `KeptCuts` knows a picture
by its pixels, wherever they came from, and gives what it has made of them before.
"""

import hashlib
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import PatchIndex, anyres_patch_index
from visor_jax.runtime.device_cache import Held

# Of crops that are kept on the host: of a large picture there are 65 MB.
MOST_BYTES = 256_000_000


class CutImage(NamedTuple):
    """A picture of a prompt, cut.

    crops: (C, t, t, 3). patch_index: the tokens that they make. key: 16 bytes that tell
    them from those of other pictures, cut by the same settings; None if nobody knows.
    """

    crops: Float32[np.ndarray, "C t t 3"]
    patch_index: PatchIndex
    key: bytes | None = None


class Cutter(Protocol):
    """`cut_image`, or something that gives the same sooner."""

    def __call__(
        self, pixels: UInt8[np.ndarray, "h w 3"], settings: ImageSettings
    ) -> CutImage:
        """Returns the picture, cut."""


def cut_image(pixels: UInt8[np.ndarray, "h w 3"], settings: ImageSettings) -> CutImage:
    """Returns the picture, cut as `anyres` does."""
    crops = anyres_crops(pixels, settings)
    return CutImage(crops, anyres_patch_index(*pixels.shape[:2], settings))


class KeptCuts:
    """`cut_image` of pictures that may come again; for one thread."""

    def __init__(self, most_bytes: int) -> None:
        """Keeps nothing yet. most_bytes: of crops, at most; the longest unused go."""
        self._kept: Held[tuple[ImageSettings, bytes], CutImage] = Held(most_bytes)

    def clear(self) -> None:
        """Lets go of all pictures."""
        self._kept.clear()

    def __call__(
        self, pixels: UInt8[np.ndarray, "h w 3"], settings: ImageSettings
    ) -> CutImage:
        """Returns the picture, cut. Its arrays are for reading alone."""
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels))
        key = digest.digest()
        found = self._kept.get((settings, key))
        if found is not None:
            return found
        made = cut_image(pixels, settings)._replace(key=key)
        # One array serves all who ask about the picture.
        made.crops.flags.writeable = False
        return self._kept.put((settings, key), made.crops.nbytes, lambda: made)
