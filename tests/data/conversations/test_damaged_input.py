"""10,000 small mutations of valid files and messages: the documented error or none.

What is mutated and how follows from a seed, so that a failure can be repeated.
"""

import io
import warnings

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from tests.data import tiny_llava
from tests.data.mutations import mutated_bytes, mutated_messages, outcome
from tests.data.prompts.test_chat_template import DIALOGUE
from tests.data.tiny_llava import image_settings, random_image
from visor_jax.data.images.read_image import read_image
from visor_jax.data.prompts.chat_processor import ChatProcessor

FILES, CONVERSATIONS = 7000, 3000
# Mutated headers can promise any size; 2 ** 22 pixels are quick to decode.
MAX_PIXELS = 1 << 22
PROCESSOR = ChatProcessor(
    tokenizer=tiny_llava.tokenizer(),
    images=image_settings(tile=14, patch=7, side=2),
    max_length=400,
)


def valid_files():
    """Returns the bytes of tiny files of all formats and of unusual modes."""
    image = Image.fromarray(random_image(9, 7))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [image.rotate(90 * i) for i in range(3)]
    variants = [
        *((image, "PNG", {}), (image, "JPEG", {"exif": exif}), (image, "GIF", {})),
        *((image, "BMP", {}), (image, "WEBP", {"lossless": True}), (image, "PPM", {})),
        *((image, "TIFF", {}), (image, "TIFF", {"compression": "tiff_lzw"})),
        (image, "JPEG", {"progressive": True, "quality": 40}),
        (image.convert("CMYK"), "JPEG", {}),
        (image.convert("RGBA"), "PNG", {"exif": exif}),
        (image.quantize(4), "PNG", {"transparency": 2}),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        (image, "GIF", {"save_all": True, "append_images": frames}),
        (image, "WEBP", {"save_all": True, "append_images": frames}),
        (image, "JPEG2000", {}),
    ]
    files = []
    for picture, format_, options in variants:
        buffer = io.BytesIO()
        picture.save(buffer, format_, **options)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(autouse=True)
def no_annotation_checks():
    """Strange types must meet the package's own checks, as they do in production."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_damaged_image_files():
    rng = np.random.default_rng(0)
    files = valid_files()
    for content in files:
        assert read_image(content).shape[2] == 3
    outcomes = []
    with warnings.catch_warnings():
        # Pillow warns of some damage before it refuses or repairs it.
        warnings.simplefilter("ignore")
        for i in range(FILES):
            data = mutated_bytes(files[i % len(files)], rng)
            outcomes.append(outcome(read_image, data, max_pixels=MAX_PIXELS))
    assert 0.02 * FILES < outcomes.count("fine") < 0.98 * FILES


def test_damaged_conversations():
    rng = np.random.default_rng(1)
    images = [random_image(9, 7, seed) for seed in range(2)]
    given = {"images": images, "videos": [images]}
    assert outcome(PROCESSOR.prompt, DIALOGUE, **given) == "fine"
    outcomes = []
    for _ in range(CONVERSATIONS):
        messages = mutated_messages(rng)
        outcomes.append(outcome(PROCESSOR.prompt, messages, **given))
    assert 0.02 * CONVERSATIONS < outcomes.count("fine") < 0.98 * CONVERSATIONS
