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
    HEIC                    read with the extra "heic", else refused, naming it
    arrays of other kinds   (JAX, PyTorch on the CPU) become NumPy's
"""

import functools
import importlib.util
import io
import os
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from visor_jax.data.images.file_kinds import HEAD, is_video, remedy_for
from visor_jax.data.images.image_source import BinaryFile, content_of, from_url
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.runtime.arguments import shown
from visor_jax.runtime.lfs_pointer import is_pointer

_Bytes = bytes | bytearray | memoryview


@runtime_checkable
class ArrayLike(Protocol):
    """What NumPy makes an array of without copying its numbers one by one."""

    def __array__(self) -> np.ndarray:
        """Returns the array."""
        ...


ImageInput = str | os.PathLike | _Bytes | BinaryFile | Image.Image | ArrayLike

# Pillow's own limit, beyond which it warns of a decompression bomb.
MAX_PIXELS = 89_478_485
# Longer ones cannot be opened: they are pictures in base64, given as a file.
_LONGEST_PATH = 1024
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"),
    *("JPEG2000", "AVIF"),
    # With the extra "heic".
    "HEIF",
)


def read_image(
    image: ImageInput,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    fetch: Fetch | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image's pixels, upright and in RGB (the table at the top).

    Args:
      image: a file (also as `image_source` says: "file:" or "data:"), an open one, the
        bytes of one, a PIL image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4).
      name: what errors call it; by default "the image", with a file's path.
      max_pixels: larger images are refused.
      fetch: gets images from the net (`url_fetching`); None to refuse their URLs.

    Raises:
      ValueError: for whatever is no such image, or must be refused.
    """
    name = name or "the image"
    if isinstance(image, str):
        image = from_url(image, name, fetch)
    elif isinstance(image, bytearray | memoryview):
        image = bytes(image)
    elif not isinstance(image, bytes) and isinstance(image, BinaryFile):
        image = content_of(image, name)
    if isinstance(image, str | os.PathLike):
        name = f"{name} {short_path(os.fspath(image))!r}"
        check_is_file(image, name)
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = _decode(io.BytesIO(image), name, max_pixels)
    elif isinstance(image, str | os.PathLike):
        opened = _decode(image, name, max_pixels)
    elif isinstance(image, ArrayLike):
        opened = _from_array(as_array(image, name), name)
    else:
        raise ValueError(
            f"Cannot use {name}: {shown(image)} is a {type(image).__name__}; give a "
            "file, its bytes, a PIL image or a uint8 array."
        )
    check_size(opened, name, max_pixels)
    return np.asarray(_to_rgb(opened, name))


def read_square_image(
    image: ImageInput, size: int, *, fetch: Fetch | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image resized (bicubic) to a square, whatever its proportions.

    fetch: see `read_image`.

    Raises:
      ValueError: as `read_image`.
    """
    pixels = read_image(image, fetch=fetch)
    if pixels.shape[:2] == (size, size):
        return pixels
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def short_path(path: str | bytes) -> str | bytes:
    """Returns the path as errors name it: of one longer than any file's both ends."""
    dots = "..." if isinstance(path, str) else b"..."
    return path if len(path) <= _LONGEST_PATH else path[:60] + dots + path[-20:]


def check_is_file(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError unless there is a file that can be read to its end."""
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
            check_size(opened, name, max_pixels)
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
        head = _head(source)
        if is_pointer(head):
            raise ValueError(
                f"Cannot read {name}: it is a pointer of git-lfs and not the file "
                "itself; run `git lfs pull` where it was cloned."
            ) from error
        remedy = remedy_for(head)
        if is_video(head):
            remedy = "is a video: give it as one (--video, videos=, a part 'video')"
        if remedy is not None:
            raise ValueError(f"Cannot read {name}: it {remedy}.") from error
        detail = (
            "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        )
        raise ValueError(
            f"Cannot read {name}: it is damaged or no image{detail}. Give a PNG, JPEG "
            "or another format that Pillow reads."
        ) from error


def _head(source: str | os.PathLike | io.BytesIO) -> bytes:
    """Returns the first bytes, which say what a file is."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:HEAD]
    with open(source, "rb") as file:
        return file.read(HEAD)


class _RefusedError(ValueError):
    """An image that could be decoded and must not be."""


def check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    """Raises ValueError for an opened image without pixels, or with too many."""
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
    """Returns those of FORMATS that this build of Pillow reads, with what is beside."""
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def as_array(array: Any, name: str) -> np.ndarray:
    """Returns NumPy's array of the same numbers. Raises ValueError if there is none.

    name: what errors call it.
    """
    try:
        return np.asarray(array)
    except Exception as error:
        raise ValueError(
            f"Cannot use {name}: {type(array).__name__} gives no array ({error}); copy "
            "it to the host first."
        ) from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (3,), (4,)):
        raise ValueError(
            f"Cannot use {name}: an array must be uint8 with shape (h, w), (h, w, 3) "
            f"or (h, w, 4), colours last, got {array.dtype} {array.shape}: scale and "
            "convert it first."
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
