"""From whatever the caller has as an image to the square RGB pixels of a network."""

import os

import numpy as np
from PIL import Image, ImageOps

ImageInput = str | os.PathLike | Image.Image | np.ndarray


def read_image(image: ImageInput, size: int) -> np.ndarray:
    """Returns the image as uint8 (size, size, 3), upright, in RGB.

    Another size is resized (bicubic), without regard to its proportions. Transparency
    is dropped.

    Args:
      image: a file, a PIL image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4).

    Raises:
      ValueError: if the file is missing or is no image that can be read, or if the
        pixels are not 8-bit.
    """
    if isinstance(image, str | os.PathLike):
        name = f"the image {os.fspath(image)!r}"
        opened = _open(image, name)
    elif isinstance(image, Image.Image):
        name, opened = "the image", image
    else:
        name, opened = "the image", _from_array(np.asarray(image))
    rgb = _to_rgb(opened, name)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _open(path: str | os.PathLike, name: str) -> Image.Image:
    if not os.path.exists(path):
        raise ValueError(f"Cannot read {name}: there is no such file; check the path.")
    if os.path.isdir(path):
        raise ValueError(f"Cannot read {name}: it is a directory; give one image file.")
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened
    except MemoryError:
        raise
    except PermissionError as error:
        raise ValueError(f"Cannot read {name}: no permission to open it.") from error
    # Decoders raise almost anything over damaged files.
    except Exception as error:
        raise ValueError(
            f"Cannot read {name}: it is damaged or no image ({error}). Give a PNG, "
            "JPEG or another format that Pillow reads."
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (3,), (4,)):
        raise ValueError(
            "An image array must be uint8 with shape (h, w), (h, w, 3) or (h, w, 4), "
            f"got {array.dtype} {array.shape}: scale and convert it first."
        )
    if 0 in array.shape:
        raise ValueError(f"The image array has no pixels: shape {array.shape}.")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    # Pillow would clip the deep modes at 255 instead of scaling them.
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"Cannot use {name}: its pixels are not 8-bit (mode {image.mode!r}); "
            "convert it to 8-bit RGB first."
        )
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"Cannot use {name}: its mode {image.mode!r} does not convert to RGB "
            f"({error})."
        ) from error
