"""A clip is its frames: which are seen, in what order, from whatever file."""

import contextlib
import io
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.images import clips
from tests.data.images.picture_server import serving
from visor_jax.data.images import clip as module
from visor_jax.data.images.clip import read_clip
from visor_jax.data.images.frame_choice import chosen_frames
from visor_jax.data.images.url_fetching import UrlFetcher
from visor_jax.data.images.video_file import video_frames

FRAMES = clips.frames(13)


def check(clip, expected, **options):
    found = list(read_clip(clip, **options))
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found, expected)


def test_frames_are_spread_evenly_from_the_first_to_the_last():
    assert chosen_frames(10, 4) == [0, 3, 6, 9]
    assert chosen_frames(10, 1) == [0]
    for count in (1, 31, 32):
        assert chosen_frames(count, 32) == list(range(count))
    for count in (33, 64, 1000, 107_892):
        found = chosen_frames(count, 32)
        # By the formula: floor(i (N - 1) / 31), which float division may miss by one.
        exact = [i * (count - 1) // 31 for i in range(32)]
        assert (found[0], found[-1], len(set(found))) == (0, count - 1, 32)
        assert np.abs(np.subtract(found, exact)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_their_frames(tmp_path, kind):
    content = clips.animation(FRAMES, kind)
    check(content, FRAMES)
    check(io.BytesIO(content), FRAMES[::6], frames=3)
    file = tmp_path / "clip"
    file.write_bytes(content)
    for same in (file, str(file), file.as_uri()):
        check(same, FRAMES[::4], frames=4)


@pytest.mark.parametrize(
    ("container", "codec", "pixels", "options"),
    [
        ("mp4", "libx264rgb", "rgb24", None),
        ("matroska", "libx264rgb", "rgb24", {"qp": "0", "g": "100"}),
        ("matroska", "ffv1", "bgr0", {}),
        ("mov", "png", "rgb24", {}),
        ("avi", "ffv1", "bgr0", {}),
    ],
)
def test_videos_are_the_same_frames(container, codec, pixels, options):
    content = clips.video(FRAMES, container, codec, pixels, options)
    check(content, FRAMES)
    for seen in (1, 2, 3, 5, 12):
        check(content, [FRAMES[i] for i in chosen_frames(13, seen)], frames=seen)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "mpegts"])
def test_frames_are_found_between_others_in_another_order(container):
    """...as they are stored: one that is shown later comes first."""
    av = pytest.importorskip("av")

    many = clips.frames(60)
    options = {"crf": "30", "g": "12", "bf": "3", "b_strategy": "0"}
    content = clips.video(many, container, "libx264", "yuv420p", options)
    with av.open(io.BytesIO(content)) as opened:
        packets = [p.dts != p.pts for p in opened.demux(video=0) if p.size]
        opened.seek(0)
        shown = [f.to_ndarray(format="rgb24") for f in opened.decode(video=0)]
    assert any(packets)
    assert len(shown) == 60
    for seen in (4, 32, 60):
        check(content, [shown[i] for i in chosen_frames(60, seen)], frames=seen)


def test_few_frames_of_many_are_decoded(monkeypatch):
    av = pytest.importorskip("av")

    content = clips.video(clips.frames(120), options={"qp": "0", "g": "10"})
    decoded, decode = [], av.container.InputContainer.decode

    class Counting:
        def __init__(self, opened):
            self._opened = opened

        def __getattr__(self, name):
            return getattr(self._opened, name)

        def decode(self, stream):
            for frame in decode(self._opened, stream):
                decoded.append(frame.pts)
                yield frame

    opening = av.open

    @contextlib.contextmanager
    def counted(*arguments, **named):
        with opening(*arguments, **named) as opened:
            yield Counting(opened)

    monkeypatch.setattr(av, "open", counted)
    assert len(list(read_clip(content, frames=3))) == 3
    assert len(decoded) <= 3 * 10


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_videos_of_turned_telephones_are_upright(quarters):
    content = clips.turned(clips.video(FRAMES[:3]), quarters)
    # Clockwise, as the mark says it is to be shown.
    check(content, [np.rot90(frame, -quarters) for frame in FRAMES[:3]])


def test_animations_with_a_turn_mark_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = clips.animation(FRAMES[:3], "WEBP", exif=exif)
    check(content, [np.rot90(frame, -1) for frame in FRAMES[:3]])


def test_clear_pixels_are_white_as_in_pictures():
    clear = [Image.fromarray(frame).convert("RGBA") for frame in FRAMES[:2]]
    for each in clear:
        each.putalpha(0)
    file = io.BytesIO()
    clear[0].putpixel((0, 0), (1, 2, 3, 255))
    clear[0].save(file, "WEBP", save_all=True, append_images=clear[1:], lossless=True)
    found = list(read_clip(file))
    assert (found[0][0, 0] == [1, 2, 3]).all()
    assert (found[1] == 255).all()


def test_a_gif_of_one_frame_is_a_clip_and_other_pictures_are_none(tmp_path):
    check(clips.animation(FRAMES[:1], "GIF"), FRAMES[:1])
    for kind in ("PNG", "WEBP", "JPEG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(FRAMES[0]).save(file, kind)
        with pytest.raises(ValueError, match=rf"it is a picture \({kind}\)"):
            list(read_clip(file))


def test_clips_of_the_net_are_those_of_files():
    content = clips.animation(FRAMES, "GIF")
    with serving() as server:
        server.has("/a.gif", content, "Content-Type: image/gif")
        url = f"http://127.0.0.1:{server.port}/a.gif"
        hosts = (f"127.0.0.1:{server.port}",)
        check(url, FRAMES, fetch=UrlFetcher(hosts=hosts, networks=("127.0.0.1/32",)))
        with pytest.raises(ValueError, match="nothing is fetched"):
            list(read_clip(url))


def test_a_file_that_names_others_opens_none_of_them(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(clips.video(FRAMES[:2]))
    with serving() as server:
        url = f"http://127.0.0.1:{server.port}/a.ts"
        texts = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
            f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {tmp_path}/a.mp4\n",
            f"<MPD><BaseURL>{url}</BaseURL></MPD>",
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {server.port}",
        )
        for number, text in enumerate(texts):
            file = tmp_path / f"{number}.mp4"
            file.write_text(text)
            for clip in (file, text.encode()):
                with pytest.raises(ValueError, match=r"is damaged or no video|drawing"):
                    list(read_clip(clip))
        assert server.asked == []
    for path in (f"concat:{tmp_path}/a.mp4", f"file:{tmp_path}/a.mp4"):
        with pytest.raises(ValueError, match="there is no such file"):
            list(read_clip(path))


def test_what_is_no_clip_is_named(tmp_path):
    pytest.importorskip("av")
    whole = clips.video(FRAMES)
    for content in (b"", b"nothing", bytes(5000), whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match="the video: it is damaged or no video"):
            list(read_clip(content))
    with pytest.raises(ValueError, match="there is no video in it"):
        list(read_clip(clips.sound()))
    with pytest.raises(ValueError, match=r"video 2 '.*gone\.gif': there is no such"):
        list(read_clip(tmp_path / "gone.gif", name="video 2"))
    with pytest.raises(ValueError, match="frames=0 must be at least 1"):
        list(read_clip(whole, frames=0))
    gif = clips.animation(FRAMES, "GIF")
    with pytest.raises(ValueError, match=r"damaged at frame \d+ of \d+|truncated"):
        list(read_clip(gif[: len(gif) - len(gif) // 3]))


def test_clips_that_would_fill_the_memory_are_refused(monkeypatch):
    for content in (clips.animation(FRAMES, "GIF"), clips.video(FRAMES)):
        with pytest.raises(ValueError, match=r"more than 900 pixels \(40x24\)"):
            list(read_clip(content, max_pixels=900))
    monkeypatch.setattr(module, "MOST_PIXELS", 13 * 24 * 40 - 1)
    with pytest.raises(ValueError, match="13 frames of 40x24 have more than 12,479"):
        list(read_clip(clips.animation(FRAMES, "GIF")))
    monkeypatch.setattr("visor_jax.data.images.video_file.MOST_FRAMES", 12)
    with pytest.raises(ValueError, match="more than 12 frames"):
        list(read_clip(clips.video(FRAMES)))


def test_without_pyav_animations_are_read_and_videos_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    check(clips.animation(FRAMES, "GIF"), FRAMES)
    with pytest.raises(ValueError, match=r"PyAV: pip install -e '.\[video\]'"):
        list(video_frames(io.BytesIO(b"x"), 3, name="the video", max_pixels=9))
