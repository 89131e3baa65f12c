"""What a text says of an image: a file, its URL, base64; nothing is fetched."""

import base64
import io
import tempfile

import numpy as np
import pytest
from PIL import Image

from visor_jax.data.images.image_source import from_base64, from_url
from visor_jax.data.images.read_image import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "a b%.png"
    Image.fromarray(PIXELS).save(file)
    return file


def test_all_that_is_unambiguous_is_read(file):
    content = file.read_bytes()
    encoded = base64.b64encode(content).decode()
    uri = f"data:image/png;base64,{encoded}"
    with file.open("rb") as opened, tempfile.TemporaryFile() as temporary:
        temporary.write(content)
        images = [
            *(file, str(file), file.as_uri(), f"FILE://localhost{file.as_uri()[7:]}"),
            *(content, bytearray(content), memoryview(content), io.BytesIO(content)),
            *(opened, opened, temporary, uri, uri.replace("+", "%2B")),
            f"data:image/png;base64,\n{base64.encodebytes(content).decode()}",
        ]
        for image in images:
            np.testing.assert_array_equal(read_image(image), PIXELS)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("https://a.b/c.png", "The image 'https://a.b/c.png' is a URL, and nothing is"),
        ("HTTP://a.b/c.png", "download it first"),
        ("gs://bucket/c.png", "download it first"),
        ("data:image/png;base64,", "data URI without data: write data:image/png"),
        ("data:image/png;base64,?", "in a data URI cannot be decoded"),
        ("data:image/png;base64,aGk=", "damaged or no image"),
        ("file:///gone%20now.png", r"'/gone now\.png': there is no such file"),
        (io.BytesIO(b"hi"), "damaged or no image"),
        (io.StringIO("hi"), "opened as text; open it in binary mode, 'rb'"),
        ({"url": "a"}, "is a dict; give a file"),
    ],
)
def test_the_rest_is_named(image, problem):
    with pytest.raises(ValueError, match=problem):
        read_image(image)


def test_a_closed_file_is_named(file):
    with file.open("rb") as opened:
        pass
    with pytest.raises(ValueError, match="closed file"):
        read_image(opened)


def test_no_error_prints_a_picture():
    encoded = base64.b64encode(bytes(10**6)).decode()
    images = (
        *(encoded, f"data:image/png;base64,{encoded}?", bytes(10**6)),
        *(f"data:image/png,{encoded}", f"https://a.b/{encoded}", [encoded]),
    )
    for image in images:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  Its length matters.
            read_image(image)
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="as a data URI or its bytes"):
        read_image(encoded)


def test_base64_may_have_line_breaks():
    text = base64.encodebytes(b"pixels" * 40)
    assert b"\n" in text.strip()
    for each in (text, text.decode(), text.decode().replace("\n", "\r\n\t ")):
        assert from_base64(each, "it") == b"pixels" * 40


def test_paths_stay_what_they_are():
    for path in ("a.png", "/a%20b.png", "c:\\a.png", "data.png", "a:b/c"):
        assert from_url(path, "it") == path
