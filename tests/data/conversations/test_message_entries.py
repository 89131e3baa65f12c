"""Entries of training data whose conversations are messages of parts."""

import base64

import pytest
from PIL import Image

from visor_jax.data.conversations.converting.item_checks import (
    BadItemError,
    ImageFolder,
    read_item,
)


@pytest.fixture
def encoded(tmp_path):
    """Returns a data URI; beside it the same picture is a file."""
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    content = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    return f"data:image/png;base64,{content}"


def test_messages_are_conversations(tmp_path, encoded):
    """...with pictures in their parts, and with what tables fill with null."""
    content, folder = (tmp_path / "a.png").read_bytes(), ImageFolder(tmp_path)
    parts = [
        {"type": "image_url", "image_url": {"url": encoded}, "text": None},
        {"type": "input_image", "image_url": encoded},
        {"type": "image", "path": "a.png", "url": None},
        {"type": "input_text", "text": "Why?", "image_url": None},
    ]
    answer = {"role": "assistant", "content": [{"type": "output_text", "text": "So."}]}
    messages = [{"role": "user", "content": parts}, answer]
    for name in ("messages", "conversations"):
        sample = read_item({name: messages, "image": None, "images": None}, folder)
        assert sample.images == (content,) * 3
        assert sample.conversation.turns == (
            ("user", "<image> <image> <image>\nWhy?"),
            ("assistant", "So."),
        )
        assert sample.conversation.image_sizes == ((4, 5),) * 3
    place = [{"role": "user", "content": [{"type": "image"}, parts[-1]]}, answer]
    beside = read_item({"messages": place, "image": None, "images": [encoded]}, None)
    assert beside.images == (content,)
    said = [*messages, {"role": "user", "content": "Sure?"}, {**answer, "weight": 0}]
    turns = read_item({"messages": said, "image": None}, folder).conversation
    assert turns.untrained == (3,)
    plain = {"messages": [{"role": "user", "content": "Why?"}, answer]}
    assert read_item(plain, None).conversation.turns[0] == ("user", "Why?")


@pytest.mark.parametrize(
    ("part", "beside", "reason"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a/b"}}, {}, "download it"),
        ({"type": "image_url"}, {}, "'image_url': give"),
        ({"type": "audio"}, {}, "has no type"),
        ({"type": "image", "path": "a.png"}, {"image": "a.png"}, "and beside them"),
        ({"type": "video", "video": ["a.png"]}, {}, "a video is in the messages"),
        ({"type": "image", "path": "gone.png"}, {}, "missing image"),
    ],
)
def test_messages_that_cannot_be_trained_on_say_why(part, beside, reason, tmp_path):
    messages = [
        {"role": "user", "content": [part, {"type": "text", "text": "Why?"}]},
        {"role": "assistant", "content": "So."},
    ]
    with pytest.raises(BadItemError, match=reason):
        read_item({"messages": messages, **beside}, ImageFolder(tmp_path))
