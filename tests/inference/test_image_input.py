import numpy as np
import pytest
from PIL import Image

from visor_jax.inference.image_input import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 24, 3), np.uint8)


def test_an_image_of_the_right_size_is_untouched(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (PIXELS, Image.fromarray(PIXELS), tmp_path / "a.png"):
        np.testing.assert_array_equal(read_image(image, 24), PIXELS)


def test_other_sizes_are_resized_bicubic():
    expected = Image.fromarray(PIXELS).resize((10, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_image(PIXELS, 10), np.asarray(expected))
    assert read_image(np.zeros((5, 70, 3), np.uint8), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode):
    source = Image.fromarray(PIXELS)
    image = (source.convert("L") if mode == "LA" else source).convert(mode)
    found = read_image(image, 24)
    assert (found.shape, found.dtype) == ((24, 24, 3), np.uint8)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_grey_and_transparent_arrays_become_rgb():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(read_image(grey, 24), np.dstack([grey] * 3))
    clear = np.dstack([PIXELS, np.zeros((24, 24), np.uint8)])
    np.testing.assert_array_equal(read_image(clear, 24), PIXELS)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held on its side.
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png", 24)
    np.testing.assert_array_equal(found, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_damaged_files_are_named(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(file)
    whole = file.read_bytes()
    for length in (0, 7, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"a\.{suffix}'.*damaged or no image"):
            read_image(file, 24)


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png'.*no such file"):
        read_image(tmp_path / "gone.png", 24)
    with pytest.raises(ValueError, match="is a directory"):
        read_image(tmp_path, 24)


def test_pixels_beyond_8_bits_are_refused(tmp_path):
    deep = Image.fromarray(RNG.integers(0, 65535, (24, 24)).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png'.*not 8-bit .*'I;16'"):
        read_image(tmp_path / "deep.png", 24)


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
        read_image(array, 24)
