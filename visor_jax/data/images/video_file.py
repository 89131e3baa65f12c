"""Frames of video files, decoded by PyAV (FFmpeg), which is the extra "video".

    times of the frames      0  1  2  3  4  5  6  7  8  9       from the packets alone
    key frames               *           *           *
    wanted                   0        3        6        9       nothing else is kept
    decoded                  0  1  2  3  4  5  6     8  9

The packets' times say how many frames there are, before any is decoded; decoding begins
at the last key frame before each one that is wanted. Frames are turned as the file
says, which a telephone's does.

What a stranger's file may name elsewhere is not opened: FFmpeg gets an open file, which
no path or URL in it can replace, containers alone that hold their data themselves, and
no protocol to open another.
"""

import bisect
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from visor_jax.data.images.file_kinds import HEAD, remedy_for
from visor_jax.data.images.frame_choice import chosen_frames

# Their demuxers; lists of other files (HLS, DASH, concat) are none of them.
CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts"),
    *("mpeg", "mpegvideo", "flv", "ogg", "asf", "ivf", "h264", "hevc", "m4v"),
)
# Two hours and more at 25 a second: beyond that a request would take too long.
MOST_FRAMES = 250_000
_OPTIONS = {"protocol_whitelist": "", "format_whitelist": ",".join(CONTAINERS)}


def video_frames(
    file: io.BufferedIOBase, frames: int, *, name: str, max_pixels: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the frames of a video that are seen (`clip`), upright and in RGB.

    Args:
      file: open, at its beginning. frames: at most so many. name: what errors call it.
      max_pixels: of a frame.

    Raises:
      ValueError: for a file that is none or damaged, larger frames, more of them than
        MOST_FRAMES, or if PyAV is missing.
    """
    head = file.read(HEAD)
    file.seek(0)
    av = _pyav(name)
    try:
        with av.open(file, options=_OPTIONS) as container:
            stream = _stream(container, name, max_pixels)
            yield from _Decoding(container, stream, name).frames(frames)
    except (av.error.FFmpegError, OverflowError) as error:
        kind = remedy_for(head) or "is damaged or no video"
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"Cannot read {name}: it {kind} ({reason[:120]}). Give a GIF, MP4, WebM or "
            "another video file, or the list of its frames."
        ) from error


def _pyav(name: str) -> Any:
    """Returns the package. Raises ValueError, naming the extra, where there is none."""
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"Cannot read {name}: it is no animated picture, and video files need "
            "PyAV: pip install -e '.[video]'; or give the list of its frames."
        ) from error
    return av


def _stream(container: Any, name: str, max_pixels: int) -> Any:
    """Returns the video's stream, which decodes no frame that is too large."""
    if not container.streams.video:
        raise ValueError(f"Cannot use {name}: there is no video in it.")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise ValueError(
            f"Cannot use {name}: its frames have more than {max_pixels} pixels "
            f"({width}x{height}); make it smaller first."
        )
    # It may change on the way.
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    stream.thread_type = "AUTO"
    return stream


class _Decoding:
    """One pass over an open video."""

    def __init__(self, container: Any, stream: Any, name: str) -> None:
        self._container, self._stream, self._name = container, stream, name

    def frames(self, most: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        times, keys = self._times()
        wanted = chosen_frames(len(times), most)
        self._container.seek(0, stream=self._stream)
        if None in times or len(set(times)) < len(times):
            found = self._by_number(wanted)
        else:
            times = sorted(times)
            found = self._by_time([times[index] for index in wanted], sorted(keys))
        count = 0
        for frame in found:
            count += 1
            yield _upright(frame)
        if count < len(wanted):
            raise ValueError(
                f"Cannot read {self._name}: it is damaged, only {count} of "
                f"{len(wanted)} frames could be decoded."
            )

    def _times(self) -> tuple[list[int | None], list[int]]:
        """Returns when each frame is shown, in the file's order, and the key frames'.

        Raises:
          ValueError: for no frames, or too many.
        """
        times, keys = [], []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            times.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
            if len(times) > MOST_FRAMES:
                raise ValueError(
                    f"Cannot use {self._name}: it has more than {MOST_FRAMES:,} "
                    "frames; cut it, or give frames of it."
                )
        if not times:
            raise ValueError(f"Cannot use {self._name}: there are no frames in it.")
        return times, keys

    def _by_number(self, wanted: Sequence[int]) -> Iterator[Any]:
        """Yields frames of a file that does not say when they are shown."""
        remaining = set(wanted)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in remaining:
                yield frame
            if number >= wanted[-1]:
                return

    def _by_time(self, wanted: Sequence[int], keys: Sequence[int]) -> Iterator[Any]:
        """Yields for each time the frame that is shown then."""
        decoded, frame, seeks = self._decoded(), None, True
        for time in wanted:
            at_or_before = bisect.bisect_right(keys, time)
            key = keys[at_or_before - 1] if at_or_before else None
            if seeks and key is not None and (frame is None or frame.pts < key):
                self._container.seek(key, stream=self._stream)
                decoded = self._decoded()
                frame = next(decoded, None)
                if frame is None or frame.pts > time:
                    # The index of the file is wrong: once through from its beginning.
                    seeks = False
                    self._container.seek(0, stream=self._stream)
                    decoded, frame = self._decoded(), None
            while frame is None or frame.pts < time:
                frame = next(decoded, None)
                if frame is None:
                    return
            yield frame

    def _decoded(self) -> Iterator[Any]:
        """Yields the frames from here on that have a time."""
        frames = self._container.decode(self._stream)
        return (frame for frame in frames if frame.pts is not None)


def _upright(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
