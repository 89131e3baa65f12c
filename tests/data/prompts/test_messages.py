"""The forms of messages that are read, and the pictures in them."""

import base64

import pytest

from tests.data.tiny_llava import question
from visor_jax.data.prompts.messages import media, read_messages

ENCODED = base64.b64encode(b"pixels").decode()
URI = f"data:image/png;base64,{ENCODED}"


def images(*parts):
    return [{"role": "user", "content": [{"type": "image", **p} for p in parts]}]


def test_media_are_found_in_the_messages():
    wrapped = "\n".join(ENCODED)
    found = media(
        images(
            {"image": "a.png"},
            {"path": "b.png"},
            {"url": "file:///c%20d.png"},
            {"base64": ENCODED},
            {"base64": wrapped},
            {"url": URI},
            {"url": f"DATA:image/png;base64,{wrapped}\n"},
            {"url": "data:image/png;base64,cGl4ZWxz%0A"},
            {"url": "data:,pixels"},
        ),
        "image",
    )
    assert found == ["a.png", "b.png", "/c d.png", *[b"pixels"] * 6]
    assert media(question(), "image") == []
    video = {"type": "video", "video": ["1.png", "2.png"]}
    messages = [{"role": "user", "content": [video]}]
    assert media(messages, "video") == [["1.png", "2.png"]]
    assert media(messages, "image") == []


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([{"image": "a.png"}, {}], "1 of 2 image parts"),
        ([{"url": "https://a.b/c.png"}], "nothing is fetched.*download it first"),
        ([{"image": "HTTP://a.b/c.png"}], "download it first"),
        ([{"path": "s3://a/c.png"}], "download it first"),
        ([{"image": "a.png", "path": "a.png"}], "choose one"),
        ([{"base64": "no base64!"}], "cannot be decoded"),
        ([{"base64": 7}], "cannot be decoded: it is a int"),
        ([{"url": "data:image/png;base64"}], "data URI without data"),
        ([{"url": "data:image/png;base64, "}], "data URI without data"),
    ],
)
def test_media_that_cannot_be_had_are_refused(parts, problem):
    with pytest.raises(ValueError, match=problem):
        media(images(*parts), "image")


@pytest.mark.parametrize(
    "parts",
    [
        [{"url": "data:image/png;base64," + "!" * 10**6}],
        [{"base64": "!" * 10**6}],
        [{"image": "https://a.b/" + "c" * 10**6}],
        [{"image": {"bytes": bytes(10**6)}, "type": "picture"}],
        [{"image": URI * 10**5, "text": bytes(10**6), "type": "text"}],
    ],
)
def test_errors_never_print_a_whole_picture(parts):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  Its length matters.
        media(images(*parts), "image")
    assert len(str(caught.value)) < 400


def test_parts_of_openai_are_read_as_what_they_mean():
    asked = [
        {"type": "image_url", "image_url": {"url": URI, "detail": "auto"}},
        {"type": "input_image", "image_url": URI},
        {"type": "input_text", "text": "Why?"},
    ]
    said = [{"type": "output_text", "text": "So.", "annotations": []}]
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": said},
    ]
    found = read_messages(messages)
    image = {"type": "image", "url": URI}
    assert found[0]["content"] == [image, image, {"type": "text", "text": "Why?"}]
    assert found[1]["content"][0]["type"] == "text"
    assert media(messages, "image") == [b"pixels", b"pixels"]
    assert read_messages(found) == found
    film = {"type": "video_url", "video_url": {"url": "a.mp4"}}
    assert media([{"role": "user", "content": [film]}], "video") == ["a.mp4"]
    with pytest.raises(ValueError, match="no text as its 'video_url': give the video"):
        read_messages([{"role": "user", "content": [{"type": "video_url"}]}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_image", "image_url": ""},
    ],
)
def test_parts_of_openai_without_an_image_are_named(part):
    with pytest.raises(ValueError, match=r"message 0: part .* 'image_url': give"):
        read_messages([{"role": "user", "content": [part]}])
