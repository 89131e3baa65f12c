import os

import numpy as np
import pytest
from PIL import Image, ImageSequence
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image

from visor_jax.data.images import read_image as module
from visor_jax.data.images.read_image import read_image, read_square_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 24, 3), np.uint8)


def test_pixels_that_need_no_conversion_are_untouched(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for image in (PIXELS, Image.fromarray(PIXELS), tmp_path / "a.png", content):
        np.testing.assert_array_equal(read_image(image), PIXELS)


def test_squares_are_resized_bicubic():
    expected = Image.fromarray(PIXELS).resize((10, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_square_image(PIXELS, 10), np.asarray(expected))
    np.testing.assert_array_equal(read_square_image(PIXELS, 24), PIXELS)
    assert read_square_image(np.zeros((5, 70, 3), np.uint8), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb_as_in_transformers(mode):
    source = Image.fromarray(PIXELS)
    image = (source.convert("L") if mode == "LA" else source).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PIXELS[..., 1]))
    found = read_image(image)
    assert (found.shape, found.dtype) == ((24, 24, 3), np.uint8)
    np.testing.assert_array_equal(found, convert_to_rgb(image, return_numpy=True))


def test_transparent_palettes_are_laid_on_white(tmp_path):
    image = Image.fromarray(PIXELS).quantize(8)
    image.save(tmp_path / "a.png", transparency=3)
    found = read_image(tmp_path / "a.png")
    clear = np.asarray(image) == 3
    assert clear.any()
    assert (found[clear] == 255).all()
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(found[~clear], expected[~clear])


def test_grey_and_transparent_arrays_become_rgb():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(read_image(grey), np.dstack([grey] * 3))
    clear = np.dstack([PIXELS, np.zeros((24, 24), np.uint8)])
    assert (read_image(clear) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_as_in_transformers(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.jpg"
    Image.fromarray(PIXELS[:12]).save(file, exif=exif, quality=95)
    expected = np.asarray(load_image(str(file)))
    assert (expected.shape[0] == 24) == (orientation > 4)
    np.testing.assert_array_equal(read_image(file), expected)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(file) as image:
        assert len(list(ImageSequence.Iterator(image))) == 2
    assert (read_image(file) == [255, 0, 0]).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_damaged_files_are_named(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(file)
    whole = file.read_bytes()
    for length in (0, 7, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"a\.{suffix}'.*damaged or no image"):
            read_image(file)


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png'.*no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="is a directory"):
        read_image(tmp_path)


def test_pixels_beyond_8_bits_are_refused(tmp_path):
    deep = Image.fromarray(RNG.integers(0, 65535, (24, 24)).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png'.*not 8-bit .*'I;16'"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(
    "array",
    [
        PIXELS / 255,
        PIXELS.astype(np.int32),
        PIXELS[None],
        PIXELS[..., :2],
        PIXELS[0, :, 0],
        PIXELS[:0],
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="shape"):
        read_image(array)


def test_images_without_pixels_are_refused():
    with pytest.raises(ValueError, match=r"no pixels \(0x5\)"):
        read_image(Image.new("RGB", (0, 5)))


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    file = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(file)
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"more than {module.MAX_PIXELS} pixels"):
        read_image(file)


def test_the_limit_is_exact_and_can_be_set(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    assert read_image(file, max_pixels=576).shape == (24, 24, 3)
    for image in (file, PIXELS):
        with pytest.raises(ValueError, match=r"more than 575 pixels \(24x24\)"):
            read_image(image, max_pixels=575)


def test_formats_whose_readers_start_programs_are_refused(tmp_path):
    file = tmp_path / "a.eps"
    Image.fromarray(PIXELS).save(file)
    with pytest.raises(ValueError, match="damaged or no image"):
        read_image(file)


def test_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_image(tmp_path / "pipe")


def test_errors_use_the_name_that_the_caller_gives(tmp_path):
    with pytest.raises(ValueError, match=r"frame 3: it is damaged or no image\."):
        read_image(b"not an image", name="frame 3")
    with pytest.raises(ValueError, match=r"image 2 '.*gone': there is no such file"):
        read_image(tmp_path / "gone", name="image 2")
    with pytest.raises(ValueError, match="no such file"):
        read_image("a\0b.png")
