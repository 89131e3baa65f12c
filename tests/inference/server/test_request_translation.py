"""Bodies of requests become requests of the engine, or are refused with the reason."""

import asyncio
import base64
import dataclasses
import importlib.util
import io
import struct
import zlib

import numpy as np
import pydantic
import pytest
from PIL import Image, PngImagePlugin

from tests.inference.server import served
from visor_jax.data.images.read_image import formats, read_image
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.server import request_translation
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.chat_request import ChatRequest
from visor_jax.inference.server.request_translation import Translator

SETTINGS = dataclasses.replace(
    served.SETTINGS, max_images=2, max_pixels=10_000, stop=("END",)
)


def translated(fetch=None, settings=SETTINGS, **body):
    """Returns the engine's request for a body."""
    body = {"model": "tiny", "messages": served.messages("Why?"), **body}
    chat = ChatRequest.model_validate(body)
    translator = Translator(
        settings=settings, new_tokens=12, crop_size=served.TILE, fetch=fetch
    )
    return asyncio.run(translator.request(chat))


def image_message(url, **more):
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "Why?"}]}]


def test_all_that_is_said_reaches_the_engine():
    pixels = served.picture(20, 30)
    messages = [
        {"role": "developer", "content": "Be short."},
        *served.messages("Was <image>?", pixels),
        {"role": "assistant", "content": "Ja.", "tool_calls": None},
        {"role": "user", "content": "Warum?"},
    ]
    request = translated(
        messages=messages,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=1,
        top_k=3,
        seed=4,
        stop=["a", "b"],
        budget="auto",
        cost=2,
        crops=2,
        user="somebody",
        n=1,
    )
    system, user, assistant, last = request.messages()
    assert system == {"role": "system", "content": "Be short."}
    image, text = user["content"]
    assert text == {"type": "text", "text": "Was <image>?"}
    np.testing.assert_array_equal(image["image"], pixels)
    assert assistant == {"role": "assistant", "content": "Ja."}
    assert last["content"] == "Warum?"
    assert request.images is None
    options = request.options
    assert options.sampling == Sampling(temperature=0.5, top_k=3)
    said = (options.max_new_tokens, options.seed, options.stop)
    assert said == (7, 4, ("a", "b"))
    assert (options.budget, options.cost) == ("auto", 2.0)
    assert options.crops == "base+2"


def test_what_is_not_said_the_server_says():
    options = translated().options
    assert (options.budget, options.cost) == (SETTINGS.budget, None)
    assert options.crops is None
    assert (options.stop, options.sampling) == (("END",), SETTINGS.sampling)
    drawing = dataclasses.replace(SETTINGS, sampling=Sampling(temperature=2, top_p=0.5))
    found = [translated(settings=drawing), translated(settings=drawing, temperature=0)]
    assert [each.options.sampling for each in found] == [drawing.sampling, Sampling()]


def test_low_detail_is_an_image_no_larger_than_a_crop():
    pixels = served.picture(90, 60)
    for detail, shape in {"low": (56, 37, 3), "high": (90, 60, 3)}.items():
        request = translated(messages=served.messages("?", pixels, detail=detail))
        image = request.messages()[0]["content"][0]["image"]
        if isinstance(image, bytes):
            image = np.asarray(Image.open(io.BytesIO(image)))
        assert image.shape == shape


def test_addresses_are_fetched_by_what_the_server_is_given_alone():
    asked = []

    async def fetch(url):
        asked.append(url)
        return base64.b64decode(served.data_uri(served.picture()).partition(",")[2])

    request = translated(fetch, messages=image_message("HTTPS://a.b/c.png"))
    assert asked == ["HTTPS://a.b/c.png"]
    image = request.messages()[0]["content"][0]["image"]
    np.testing.assert_array_equal(image, served.picture())
    with pytest.raises(ApiError, match="fetches nothing") as refused:
        translated(messages=image_message("https://a.b/c.png"))
    assert refused.value.status_code == 400
    assert refused.value.body()["error"]["param"] == "messages"


def bomb(width, height):
    """Returns the head of a PNG that says that it is very large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    content = b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT"
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("url", "status", "why"),
    [
        ("/etc/passwd", 400, "neither a data URI nor"),
        ("file:///etc/passwd", 400, "neither a data URI nor"),
        ("ftp://a.b/c.png", 400, "neither a data URI nor"),
        ("data:image/png;base64,", 400, "without data"),
        ("data:image/png;base64,@@@", 400, "cannot be decoded"),
        ("data:image/png;base64,AAAA", 422, "damaged"),
        ("data:text/plain,/etc/passwd", 422, "damaged"),
        (bomb(10_000, 10_000), 422, "10000x10000 pixels, more than 10000"),
        (bomb(200, 51), 422, "200x51 pixels"),
        (bomb(60_000, 60_000), 422, "more than 10000 pixels"),
    ],
)
def test_images_that_are_refused(url, status, why):
    with pytest.raises(ApiError, match=why) as refused:
        translated(messages=image_message(url))
    assert refused.value.status_code == status
    assert len(refused.value.detail) < 300


def heic_uri():
    """Returns a picture of 20 x 30 pixels as telephones save it, and what it shows."""
    heif = pytest.importorskip("pillow_heif", reason="needs: pip install -e .[heic]")
    pixels = np.repeat(np.linspace(0, 255, 600).astype(np.uint8), 3).reshape(20, 30, 3)
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1)
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/heic;base64,{content}", pixels


def with_text(pixels):
    """Returns a small PNG that unpacks to a megabyte of text, as a data URI."""
    said, file = PngImagePlugin.PngInfo(), io.BytesIO()
    said.add_text("Comment", "a" * 10**6, zip=True)
    Image.fromarray(pixels).save(file, "PNG", pnginfo=said)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("pixels", "uri", "threads", "is_read"),
    [
        (served.picture(20, 30), served.data_uri, 0, True),
        (served.picture(20, 30), with_text, 1, False),
        # More than 100,000 characters: they are unpacked there as well.
        (served.picture(220, 230), served.data_uri, 2, False),
        # Few characters, and more than 65,536 pixels.
        (np.full((256, 257, 3), 7, np.uint8), served.data_uri, 0, False),
    ],
)
def test_what_takes_long_is_read_beside_the_event_loop(
    monkeypatch, pixels, uri, threads, is_read
):
    used, to_thread = [], asyncio.to_thread

    async def noting(*what):
        used.append(what)
        return await to_thread(*what)

    monkeypatch.setattr(request_translation.asyncio, "to_thread", noting)
    settings = dataclasses.replace(SETTINGS, max_pixels=10**6)
    request = translated(messages=image_message(uri(pixels)), settings=settings)
    assert len(used) == threads
    image = request.messages()[0]["content"][0]["image"]
    assert isinstance(image, np.ndarray) is is_read
    np.testing.assert_array_equal(read_image(image), pixels)


def test_heic_is_an_image_where_its_extra_is_installed():
    url, pixels = heic_uri()
    (part, _) = translated(messages=image_message(url)).messages()[0]["content"]
    np.testing.assert_allclose(read_image(part["image"]), pixels, atol=3)
    large = dataclasses.replace(SETTINGS, max_pixels=599)
    with pytest.raises(ApiError, match="30x20 pixels, more than 599"):
        translated(messages=image_message(url), settings=large)


def test_heic_says_what_is_missing_where_it_is_not(monkeypatch):
    url, _ = heic_uri()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    formats.cache_clear()
    try:
        with pytest.raises(ApiError) as refused:
            translated(messages=image_message(url))
    finally:
        formats.cache_clear()
    error = refused.value.body()["error"]
    assert refused.value.status_code == 422
    assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
    assert error["message"].startswith("An image is HEIC: pip install -e '.[heic]'")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"\0\0\0\x18ftypisom", "An image is a video: send some of its frames"),
        (b"%PDF-1.7", "An image is a PDF: save its pages as PNG"),
        (b"<svg xmlns=''/>", "An image is a drawing"),
    ],
)
def test_what_is_no_image_says_what_it_is(head, why):
    content = base64.b64encode(head + bytes(64)).decode()
    with pytest.raises(ApiError, match=why) as refused:
        translated(messages=image_message(f"data:image/png;base64,{content}"))
    assert refused.value.status_code == 422


def test_more_than_is_taken_is_refused():
    with pytest.raises(ApiError, match="3 images are more than the 2"):
        translated(messages=served.messages("?", *[served.picture()] * 3))
    with pytest.raises(ApiError, match="13 new tokens are more than the 12"):
        translated(max_tokens=13)
    with pytest.raises(ApiError, match="top_p need a temperature"):
        translated(top_p=0.5)
    with pytest.raises(ApiError, match="is a file"):
        translated(budget="@/etc/passwd")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("n", 2, "less than or equal to 1"),
        ("top_logprobs", 3, "less than or equal to 0"),
        ("tools", [{}], "tools"),
        ("response_format", {"type": "json_object"}, "response_format"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("temperature", "0.5", "temperature"),
        ("temperature", float("nan"), "finite"),
        ("temperature", -1.0, "temperature"),
        ("max_tokens", True, "max_tokens"),
        ("seed", 2**31, "seed"),
        ("stop", [""], "none of them empty"),
        ("stop", ["a"] * 17, "up to 16"),
        ("stream_options", {"include_usage": True}, "stream=true"),
        ("messages", [], "messages"),
        ("messages", [{"role": "tool", "content": "x"}], "role"),
        ("messages", [{"role": "user", "content": None}], "content"),
        ("messages", [{"role": "user", "content": [{"type": "image"}]}], "type"),
        ("messages", [{"role": "user", "content": "x", "name": "a"}], "name"),
    ],
)
def test_bodies_that_are_no_requests(field, value, why):
    with pytest.raises(pydantic.ValidationError, match=why):
        translated(**{field: value})


def test_what_is_null_is_as_if_it_were_not_there():
    names = [name for name in ChatRequest.model_fields if name not in ("model",)]
    said = dict.fromkeys([*names, "tools", "functions"])
    del said["messages"]
    assert translated(**said).options == translated().options


def test_one_length_is_said_once():
    with pytest.raises(pydantic.ValidationError, match="not both"):
        translated(max_tokens=3, max_completion_tokens=3)
