"""From whatever the caller has as an image to upright RGB pixels; the only processor.

What happens to unusual images, so that nothing is guessed or dropped unseen:

    EXIF rotation           applied, as transformers' `load_image` does to files; to PIL
                            images as well
    alpha, palette with     composited on white, as transformers' image processors do
      transparency
    grey, CMYK, YCbCr, ...  converted by Pillow, as transformers does
    animated files          the first frame, as transformers does
    16 and 32 bits of grey  refused: Pillow would clip them at 255 (16-bit colour PNGs
      or float pixels       are reduced to 8 bits when Pillow opens them)
    truncated, damaged      refused
    no pixels               refused
    more than MAX_PIXELS    refused before anything is decoded
    formats not in FORMATS  refused: some of Pillow's readers start other programs
"""

import functools
import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from visor_jax.data.images.image_source import BinaryFile, content_of, from_url
from visor_jax.runtime.arguments import shown
from visor_jax.runtime.lfs_pointer import is_pointer

_Bytes = bytes | bytearray | memoryview
ImageInput = str | os.PathLike | _Bytes | BinaryFile | Image.Image | np.ndarray

# Pillow's own limit, beyond which it warns of a decompression bomb.
MAX_PIXELS = 89_478_485
# Longer ones cannot be opened: they are pictures in base64, given as a file.
_LONGEST_PATH = 1024
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"),
    *("JPEG2000", "AVIF"),
)


def read_image(
    image: ImageInput, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image's pixels, upright and in RGB (the table at the top).

    Args:
      image: a file (also as `image_source` says: "file:" or "data:"), an open one, the
        bytes of one, a PIL image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4).
      name: what errors call it; by default "the image", with a file's path.
      max_pixels: larger images are refused.

    Raises:
      ValueError: for whatever is no such image, or must be refused.
    """
    name = name or "the image"
    if isinstance(image, str):
        image = from_url(image, name)
    elif isinstance(image, bytearray | memoryview):
        image = bytes(image)
    elif isinstance(image, BinaryFile):
        image = content_of(image, name)
    if isinstance(image, str | os.PathLike):
        name = f"{name} {_short(os.fspath(image))!r}"
        _check_is_file(image, name)
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = _decode(io.BytesIO(image), name, max_pixels)
    elif isinstance(image, str | os.PathLike):
        opened = _decode(image, name, max_pixels)
    elif isinstance(image, np.ndarray):
        opened = _from_array(image, name)
    else:
        raise ValueError(
            f"Cannot use {name}: {shown(image)} is a {type(image).__name__}; give a "
            "file, its bytes, a PIL image or a uint8 array."
        )
    _check_size(opened, name, max_pixels)
    return np.asarray(_to_rgb(opened, name))


def read_square_image(image: ImageInput, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image resized (bicubic) to a square, whatever its proportions.

    Raises:
      ValueError: as `read_image`.
    """
    pixels = read_image(image)
    if pixels.shape[:2] == (size, size):
        return pixels
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _short(path: str | bytes) -> str | bytes:
    """Returns the path, of one that is longer than any file's both ends."""
    dots = "..." if isinstance(path, str) else b"..."
    return path if len(path) <= _LONGEST_PATH else path[:60] + dots + path[-20:]


def _check_is_file(path: str | os.PathLike, name: str) -> None:
    if not os.path.exists(path):
        remedy = "check the path"
        if len(os.fspath(path)) > _LONGEST_PATH:
            remedy = "give an image in base64 as a data URI or its bytes"
        raise ValueError(f"Cannot read {name}: there is no such file; {remedy}.")
    if os.path.isdir(path):
        raise ValueError(f"Cannot read {name}: it is a directory; give one image file.")
    # Reading a pipe could wait for ever.
    if not os.path.isfile(path):
        raise ValueError(f"Cannot read {name}: it is no regular file.")


def _decode(
    source: str | os.PathLike | io.BytesIO, name: str, max_pixels: int
) -> Image.Image:
    try:
        with Image.open(source, formats=formats()) as opened:
            # Only the header has been read so far.
            _check_size(opened, name, max_pixels)
            opened.load()
            return opened
    except (MemoryError, _RefusedError):
        raise
    except PermissionError as error:
        raise ValueError(f"Cannot read {name}: no permission to open it.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, max_pixels) from error
    # Decoders raise almost anything over damaged files.
    except Exception as error:
        if _is_left_out(source):
            raise ValueError(
                f"Cannot read {name}: it is a pointer of git-lfs and not the file "
                "itself; run `git lfs pull` where it was cloned."
            ) from error
        detail = (
            "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        )
        raise ValueError(
            f"Cannot read {name}: it is damaged or no image{detail}. Give a PNG, JPEG "
            "or another format that Pillow reads."
        ) from error


def _is_left_out(source: str | os.PathLike | io.BytesIO) -> bool:
    if isinstance(source, io.BytesIO):
        return is_pointer(source.getvalue())
    with open(source, "rb") as file:
        return is_pointer(file.read(64))


class _RefusedError(ValueError):
    """An image that could be decoded and must not be."""


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if 0 in image.size:
        raise _RefusedError(f"Cannot use {name}: it has no pixels ({width}x{height}).")
    if width * height > max_pixels:
        raise _too_large(name, max_pixels, f" ({width}x{height})")


def _too_large(name: str, max_pixels: int, size: str = "") -> ValueError:
    return _RefusedError(
        f"Cannot use {name}: it has more than {max_pixels} pixels{size}; make it "
        "smaller first."
    )


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (3,), (4,)):
        raise ValueError(
            f"Cannot use {name}: an array must be uint8 with shape (h, w), (h, w, 3) "
            f"or (h, w, 4), got {array.dtype} {array.shape}: scale and convert it "
            "first."
        )
    if 0 in array.shape:
        raise ValueError(f"Cannot use {name}: it has no pixels, shape {array.shape}.")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"Cannot use {name}: its pixels are not 8-bit (mode {image.mode!r}); "
            "convert it to 8-bit RGB first."
        )
    try:
        return _on_white(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"Cannot use {name}: it cannot be turned upright in RGB from mode "
            f"{image.mode!r} ({error})."
        ) from error


def _on_white(image: Image.Image) -> Image.Image:
    clear = "A" in image.getbands() or image.info.get("transparency") is not None
    if not clear:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
