"""Clips that are the same frames in several forms, none of which loses anything."""

import io

import numpy as np
import pytest
from PIL import Image

SIZE = (24, 40)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """Returns frames of few colours, no two alike, which palettes hold."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 8, 3), np.uint8)
    places = rng.integers(0, 8, (count, *SIZE))
    return [colour[place] for colour, place in zip(colours, places, strict=True)]


def animation(shown: list[np.ndarray], kind: str, **options) -> bytes:
    """Returns an animation in one of Pillow's formats."""
    file = io.BytesIO()
    first, *rest = [Image.fromarray(frame) for frame in shown]
    options = {"lossless": True, "duration": 40} | options
    first.save(file, kind, save_all=True, append_images=rest, **options)
    return file.getvalue()


def video(
    shown: list[np.ndarray],
    container: str = "mp4",
    codec: str = "libx264rgb",
    pixels: str = "rgb24",
    options: dict[str, str] | None = None,
) -> bytes:
    """Returns a video file, by default one that keeps every pixel."""
    av = pytest.importorskip("av", reason="needs PyAV: pip install -e .[video]")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width = shown[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {"qp": "0", "g": "5"} if options is None else options
        for frame in shown:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            output.mux(stream.encode(picture.reformat(format=pixels)))
        output.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    """Returns a file without pictures."""
    av = pytest.importorskip("av", reason="needs PyAV: pip install -e .[video]")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def turned(mp4: bytes, quarters: int) -> bytes:
    """Returns the video with the mark that it is shown turned clockwise.

    The matrix of a track (ISO/IEC 14496-12, tkhd) is 9 numbers of 32 bits.
    """
    one = 0x10000
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]

    def matrix(cosine: int, sine: int) -> bytes:
        rows = (cosine, sine, 0, -sine, cosine, 0, 0, 0, 0x4000)
        return b"".join((one * x % 2**32).to_bytes(4, "big") for x in rows)

    at = mp4.index(matrix(1, 0), mp4.index(b"tkhd"))
    return mp4[:at] + matrix(cosine, sine) + mp4[at + 36 :]
