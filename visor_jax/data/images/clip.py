"""Clips: animated pictures and video files as the frames that a network sees of them.

Which ones `frame_choice` says, by their number alone: the same frames are the same clip
as a GIF, a video or a list. They come upright and in RGB, each as `read_image` has it.

    animated GIF, WebP, PNG, AVIF    by Pillow; a GIF may have one frame
    video files                      by PyAV (`video_file`)
    any other picture                refused: it is no clip
    too many pixels                  refused before anything is decoded
"""

import io
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from visor_jax.data.images.frame_choice import FRAMES, chosen_frames
from visor_jax.data.images.image_source import BinaryFile, content_of, from_url
from visor_jax.data.images.read_image import (
    MAX_PIXELS,
    check_is_file,
    check_size,
    formats,
    read_image,
    short_path,
)
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.data.images.video_file import video_frames
from visor_jax.runtime.arguments import shown, whole_number

# A file, its bytes, or an open one.
Clip = str | os.PathLike | bytes | bytearray | memoryview | BinaryFile

# Of an animated picture, all of whose frames are decoded up to the last that is seen.
MOST_PIXELS = 2**32
# Those of Pillow that are animations; a still picture is a clip in the first alone.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")


def read_clip(
    clip: Clip,
    *,
    frames: int = FRAMES,
    name: str = "the video",
    max_pixels: int = MAX_PIXELS,
    fetch: Fetch | None = None,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the frames of a clip that are seen, in their order (`frame_choice`).

    Args:
      clip: a file (also as `image_source` says), its bytes, or an open one. Animated
        GIF, WebP, PNG and AVIF; video files with the extra "video".
      frames: at most so many.
      name: what errors call it; with a file's path.
      max_pixels: clips with larger frames are refused.
      fetch: gets clips from the net; None to refuse their URLs.

    Raises:
      ValueError: for whatever is no such clip, is damaged, or must be refused; and for
        a video file where PyAV is missing.
    """
    whole_number(frames, "frames", least=1)
    name, content = _opened(clip, name, fetch)
    with content as file:
        picture = _as_picture(file, name)
        file.seek(0)
        if picture is None:
            yield from video_frames(file, frames, name=name, max_pixels=max_pixels)
        else:
            yield from _animated(picture, frames, name, max_pixels)


def _opened(
    clip: Clip, name: str, fetch: Fetch | None
) -> tuple[str, io.BufferedIOBase]:
    """Returns the clip's name with its path, and its content as a file."""
    if isinstance(clip, str):
        clip = from_url(clip, name, fetch)
    elif isinstance(clip, BinaryFile):
        clip = content_of(clip, name)
    if isinstance(clip, bytes | bytearray | memoryview):
        return name, io.BytesIO(clip)
    if not isinstance(clip, str | os.PathLike):
        raise ValueError(
            f"Cannot use {name}: {shown(clip)} is a {type(clip).__name__}; give a file "
            "or its bytes."
        )
    name = f"{name} {short_path(os.fspath(clip))!r}"
    check_is_file(clip, name)
    try:
        return name, open(clip, "rb")
    except PermissionError as error:
        raise ValueError(f"Cannot read {name}: no permission to open it.") from error


def _as_picture(file: io.BufferedIOBase, name: str) -> Image.Image | None:
    """Returns an animation that Pillow reads; None for what it does not read at all.

    Raises:
      ValueError: for a still picture.
    """
    try:
        picture = Image.open(file, formats=formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"Cannot use {name}: its frames are too large.") from error
    # A damaged picture raises almost anything, and may be a video with such a name.
    except Exception:
        return None
    moves = picture.format in _ANIMATED and getattr(picture, "n_frames", 1) > 1
    if moves or picture.format == "GIF":
        return picture
    raise ValueError(
        f"Cannot use {name} as a video: it is a picture ({picture.format}). Give an "
        "animation, a video file, or a list with the list of its frames: [[...]]."
    )


def _animated(
    picture: Image.Image, frames: int, name: str, max_pixels: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    check_size(picture, name, max_pixels)
    (width, height), count = picture.size, picture.n_frames
    if width * height * count > MOST_PIXELS:
        raise ValueError(
            f"Cannot use {name}: its {count} frames of {width}x{height} have more than "
            f"{MOST_PIXELS:,} pixels together; make it smaller or shorter."
        )
    for index in chosen_frames(count, frames):
        try:
            picture.seek(index)
            frame = picture.copy()
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"Cannot read {name}: it is damaged at frame {index + 1} of {count} "
                f"({error})."
            ) from error
        yield read_image(frame, name=f"frame {index + 1} of {name}")
