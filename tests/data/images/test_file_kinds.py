"""Files that Pillow does not read say what they are, and what helps."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from tests.data.images import clips
from visor_jax.data.images import read_image as module
from visor_jax.data.images.file_kinds import is_video, remedy_for
from visor_jax.data.images.read_image import read_image

BRANDS = ("heic", "heix", "hevc", "mif1", "msf1")
PIXELS = clips.frames(1)[0]
PICTURES = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        *(
            (b"\0\0\0\x18ftyp" + each.encode(), "is HEIC: pip install -e '")
            for each in BRANDS
        ),
        (b"\xff\x0a\0\0", "is JPEG XL: save it as PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
        (b"%PDF-1.7", "is a PDF: save its pages"),
        (b'<?xml version="1.0"?><svg>', "is a drawing in XML"),
        (b"\n<svg xmlns=", "is a drawing in XML"),
        (b"\0\0\0\x18ftypisom", "is a video: give it as one"),
        (b"\x1a\x45\xdf\xa3\x01", "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"whatever else it is", "is damaged or no image"),
    ],
)
def test_a_file_of_another_kind_says_what_it_is(monkeypatch, head, problem):
    monkeypatch.setattr(module, "formats", lambda: ("PNG", "JPEG"))
    with pytest.raises(ValueError, match=f"Cannot read it: it {problem}"):
        read_image(head + bytes(99), name="it")


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_of_no_other_kind(kind):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    assert remedy_for(file.getvalue()[:64]) is None
    assert not is_video(file.getvalue()[:64])


def test_heic_is_read_upright_where_the_extra_is_there():
    heif = pytest.importorskip("pillow_heif", reason="needs: pip install -e .[heic]")
    assert "HEIF" in module.formats()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    file = io.BytesIO()
    picture = heif.from_pillow(Image.fromarray(grey).convert("RGB"))
    picture.save(file, quality=-1, exif=exif.tobytes())
    found = read_image(file)
    np.testing.assert_allclose(found[..., 1], np.rot90(grey, -1), atol=3)


def test_heic_is_no_format_where_the_extra_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    module.formats.cache_clear()
    try:
        assert "HEIF" not in module.formats()
    finally:
        module.formats.cache_clear()
