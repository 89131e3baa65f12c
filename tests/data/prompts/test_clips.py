"""One clip, whatever it comes in, is one sample; and what is fetched is one, too."""

import base64

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.data.images import clips
from tests.data.images.picture_server import serving
from tests.data.tiny_llava import image_settings, question, tokenizer
from visor_jax.data.images.url_fetching import UrlFetcher
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.request import Request, video_list

FRAMES = clips.frames(40)
PROCESSOR = ChatProcessor(tokenizer=tokenizer(), images=image_settings())


def same(one, other):
    np.testing.assert_array_equal(one.crops, other.crops)
    np.testing.assert_array_equal(one.patch_index.index, other.patch_index.index)
    np.testing.assert_array_equal(one.layout.tokens, other.layout.tokens)
    np.testing.assert_array_equal(
        one.layout.image_positions, other.layout.image_positions
    )


def test_animation_video_and_list_of_the_same_frames_are_the_same_tokens(tmp_path):
    shown = FRAMES[:9]
    contents = {
        "a.gif": clips.animation(shown, "GIF"),
        "a.webp": clips.animation(shown, "WEBP"),
        "a.mp4": clips.video(shown),
    }
    expected = PROCESSOR.prompt(question(images=0, videos=1), videos=[shown])
    assert expected.crops.shape == (9, 56, 56, 3)
    for name, content in contents.items():
        file = tmp_path / name
        file.write_bytes(content)
        for video in (file, str(file), content, [content]):
            request = Request("Why?", videos=video)
            same(PROCESSOR.prompt(request.messages(), videos=request.videos), expected)
        uri = f"data:video/any;base64,{base64.b64encode(content).decode()}"
        parts = ({"type": "video", "path": str(file)}, {"type": "video", "url": uri})
        for part in (*parts, {"type": "video_url", "video_url": {"url": uri}}):
            content = [part, {"type": "text", "text": "Why?"}]
            same(PROCESSOR.prompt([{"role": "user", "content": content}]), expected)


def test_at_most_so_many_frames_of_a_file_are_seen():
    gif = clips.animation(FRAMES, "GIF")
    found = PROCESSOR.prompt(question(images=0, videos=1), videos=gif)
    # Of the list all: whoever gives frames has chosen them.
    seen = [FRAMES[index] for index in np.linspace(0, 39, 32, dtype=int)]
    same(found, PROCESSOR.prompt(question(images=0, videos=1), videos=[seen]))
    whole = PROCESSOR.prompt(question(images=0, videos=1), videos=[FRAMES])
    assert (len(found.crops), len(whole.crops)) == (32, 40)


def test_several_files_are_several_videos():
    files = [clips.animation(FRAMES[a:b], "GIF") for a, b in ((0, 3), (3, 5))]
    expected = PROCESSOR.prompt(
        question(images=0, videos=2), videos=[FRAMES[:3], FRAMES[3:5]]
    )
    assert [kind for kind, _ in expected.layout.media] == ["video", "video"]
    assert len(expected.crops) == 5
    same(PROCESSOR.prompt(question(images=0, videos=2), videos=files), expected)
    mixed = [files[0], FRAMES[3:5]]
    same(PROCESSOR.prompt(question(images=0, videos=2), videos=mixed), expected)


def test_arrays_of_other_libraries_are_arrays():
    asked = question(images=1, videos=1)
    expected = PROCESSOR.prompt(asked, images=FRAMES[0], videos=[FRAMES[:2]])
    there = jnp.asarray(np.stack(FRAMES[:2]))
    for videos in (there, [there], there[None], list(there), [list(there)]):
        same(PROCESSOR.prompt(asked, images=there[0], videos=videos), expected)
    same(PROCESSOR.prompt(asked, images=there[:1], videos=there), expected)
    with pytest.raises(ValueError, match=r"colours last, got float32 \(24, 40, 3\)"):
        PROCESSOR.prompt(question(), images=there[0] / 255)


def test_a_list_of_pictures_that_are_files_is_no_video(tmp_path):
    for name in ("1.png", "2.png"):
        Image.fromarray(FRAMES[0]).save(tmp_path / name)
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    with pytest.raises(ValueError, match=r"is a picture \(PNG\).*\[\[\.\.\.\]\]"):
        PROCESSOR.prompt(question(images=0, videos=2), videos=files)
    asked = question(images=0, videos=1)
    assert len(PROCESSOR.prompt(asked, videos=[files]).crops) == 2
    assert video_list("a.mp4") == ["a.mp4"]


def test_what_is_fetched_is_read_wherever_pictures_stand(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png")
    with serving() as server:
        kinds = ("Content-Type: image/png", "Content-Type: image/gif")
        server.has("/a.png", (tmp_path / "a.png").read_bytes(), kinds[0])
        server.has("/a.gif", clips.animation(FRAMES[:2], "GIF"), kinds[1])
        url = f"http://127.0.0.1:{server.port}"
        fetch = UrlFetcher(hosts=(url[7:],), networks=("127.0.0.1/32",))
        fetching = ChatProcessor(
            tokenizer=tokenizer(), images=image_settings(), fetch=fetch
        )
        asked = question(images=1, videos=1)
        expected = PROCESSOR.prompt(asked, images=FRAMES[0], videos=[FRAMES[:2]])
        found = fetching.prompt(asked, images=f"{url}/a.png", videos=f"{url}/a.gif")
        same(found, expected)
        content = [
            {"type": "image_url", "image_url": {"url": f"{url}/a.png"}},
            {"type": "video_url", "video_url": {"url": f"{url}/a.gif"}},
            {"type": "text", "text": "Why?"},
        ]
        messages = [{"role": "user", "content": content}]
        same(fetching.prompt(messages), expected)
        count = len(server.asked)
        with pytest.raises(ValueError, match="nothing is fetched from the net"):
            PROCESSOR.prompt(messages)
        assert len(server.asked) == count == 4
