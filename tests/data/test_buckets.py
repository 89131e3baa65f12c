"""Samples in buckets: few programs, and nothing changes by padding."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.data import tiny_llava
from tests.data.tiny_llava import image_settings, question, random_image
from tests.tolerances import REORDERED
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import anyres_patch_index
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.vlm import VLM

# Crops of 3 x 3 patches, resized beyond 2 tiles' worth of them.
SETTINGS = dataclasses.replace(image_settings(tile=14, patch=4, side=3), max_tiles=2)
PROCESSOR = ChatProcessor(tokenizer=tiny_llava.tokenizer(), images=SETTINGS)
NETWORK = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    decoder=dataclasses.replace(tiny.DECODER, vocab_size=320),
    plan=LayerPlan.build(1, self_=(0,)),
)


def ladder(**changes):
    arguments = {"text_tokens": (128,), "max_images": 0, "max_frames": 0, **changes}
    return Buckets.ladder(SETTINGS, pad_id=tiny_llava.PAD, multiple=8, **arguments)


def sample(height, width, words="Why?"):
    image = random_image(height, width)
    return PROCESSOR.prompt(question(words), images=[image])


def test_records_of_runs_from_before_stay_as_they_are():
    bucket = Bucket(crops=1, image_tokens=8, text_tokens=4)
    before = {"crops": 1, "image_tokens": 8, "text_tokens": 4, "corners": 1}
    assert bucket.lengths() == before
    told = dataclasses.replace(bucket, gaps=True)
    assert told.lengths() == {**before, "gaps": True}


def forward(batch):
    params = tiny.params_of(NETWORK)
    return _forward(params, batch)


@jax.jit
def _forward(params, batch):
    return VLM(NETWORK).apply({"params": params["params"]}, batch, (True,)).logits


def text_logits(batch, row, length):
    return np.asarray(forward(batch))[row, :length]


def test_forty_sizes_compile_no_more_programs_than_there_are_buckets():
    rng = np.random.default_rng(0)
    sizes = rng.integers(4, 60, (40, 2)).tolist()
    samples = [sample(*size) for size in sizes]
    buckets = ladder()
    _forward.clear_cache()
    groups = list(buckets.batches(samples, batch_size=2))
    for group in groups:
        forward(group.batch)
    used = {group.bucket for group in groups}
    assert len({(s.num_crops, s.num_image_tokens) for s in samples}) > len(buckets)
    assert _forward._cache_size() == len(used) <= len(buckets)
    assert {bucket.corners for bucket in used} == {1, 4}
    assert sorted(row for group in groups for row in group.rows) == list(range(40))


def test_padding_and_company_change_nothing():
    """Samples in buckets of their own, and two by two in the largest one."""
    samples = [sample(10, 12, "?"), sample(14, 28, "Why is it?"), sample(40, 40)]
    assert [s.patch_index.corners for s in samples] == [1, 1, 4]
    large = ladder().all[-1]
    pairs = [ladder().batch(pair, large) for pair in (samples[:2], samples[1:])]
    for row, one in enumerate(samples):
        (group,) = ladder().batches([one], batch_size=2)
        assert group.bucket != large or row == 2
        length = one.num_text_tokens
        np.testing.assert_allclose(
            text_logits(pairs[row > 1], row - (row > 1), length),
            text_logits(group.batch, 0, length),
            **REORDERED,
        )


def test_fields_of_a_batch():
    one = sample(14, 14, "?")
    bucket = Bucket(crops=3, image_tokens=24, text_tokens=128)
    batch = ladder().batch([one], bucket)
    tokens, text = one.num_image_tokens, one.num_text_tokens
    assert (tokens, one.num_crops) == (9 + 3 * 4, 2)
    np.testing.assert_array_equal(batch.pixels[0, :2], one.crops)
    assert not batch.pixels[0, 2:].any()
    # 27 stands for the newline of three crops, the third of which is padding.
    index = [*range(9), 9, 10, 11, 27, 12, 13, 14, 27, 15, 16, 17, 27, 0, 0, 0]
    assert batch.image_token_index[0].tolist() == index
    assert batch.image_token_weights is None
    assert batch.image_mask.sum() == tokens
    assert batch.text_mask.sum() == text
    positions = [*batch.image_positions[0, :tokens], *batch.text_positions[0, :text]]
    assert sorted(positions) == list(range(tokens + text))
    assert (batch.tokens[0, text:] == tiny_llava.PAD).all()
    assert {k: v.dtype.name for k, v in vars(batch).items() if v is not None} == {
        **dict.fromkeys(("pixels",), "float32"),
        **dict.fromkeys(("image_token_index", "image_positions"), "int32"),
        **dict.fromkeys(("image_mask", "text_mask", "loss_mask"), "bool"),
        **dict.fromkeys(("tokens", "text_positions", "text_segments"), "int32"),
        **dict.fromkeys(("targets",), "int32"),
    }


def with_loss(sample):
    everywhere = np.ones_like(sample.layout.loss_mask)
    layout = dataclasses.replace(sample.layout, loss_mask=everywhere)
    return dataclasses.replace(sample, layout=layout)


def test_groups_keep_their_order_and_fill_up_without_loss():
    samples = [
        with_loss(PROCESSOR.prompt(question(), images=[random_image(*size)]))
        for size in [(14, 14), (40, 40), (12, 14), (13, 13), (42, 42)]
    ]
    groups = list(ladder().batches(samples, batch_size=2))
    assert [group.rows for group in groups] == [(0, 2), (3,), (1, 4)]
    assert [group.batch.size for group in groups] == [2, 2, 2]
    assert groups[1].batch.loss_mask.any(axis=1).tolist() == [True, False]
    np.testing.assert_array_equal(*groups[1].batch.tokens)


@given(st.integers(1, 6000), st.integers(1, 6000))
def test_the_ladder_holds_an_image_of_any_size(height, width):
    settings = ImageSettings()
    image = anyres_patch_index(height, width, settings)
    assert any(
        bucket.crops >= image.crops
        and bucket.image_tokens >= image.count
        and bucket.corners >= image.corners
        for bucket in REAL.all
    )


REAL = Buckets.ladder(ImageSettings(), pad_id=0, text_tokens=(64,))


def test_the_real_ladder_is_short():
    assert len(REAL) <= 16
    assert max(bucket.crops for bucket in REAL.all) == 37
    # No image has more than 8829 tokens.
    assert max(bucket.image_tokens for bucket in REAL.all) == 8832
    assert len(Buckets.ladder(ImageSettings(), pad_id=0)) == 4 * len(REAL)


def test_text_several_images_and_videos_have_buckets():
    buckets = ladder(max_images=3, max_frames=4)
    images = [random_image(9, 20, seed) for seed in range(3)]
    text = PROCESSOR.prompt(question(images=0))
    assert buckets.choose(text) == Bucket(crops=1, image_tokens=8, text_tokens=128)
    assert (text.num_crops, text.num_image_tokens) == (0, 0)
    several = PROCESSOR.prompt(question(images=3), images=images)
    assert (several.num_crops, several.num_image_tokens) == (3, 3 * 10)
    assert buckets.choose(several).crops == 3
    video = PROCESSOR.prompt(question(images=0, videos=1), videos=[images])
    assert (video.num_crops, video.num_image_tokens) == (3, 3 * 4 + 1)
    assert buckets.choose(video).corners == 4
    both = PROCESSOR.prompt(
        question(images=1, videos=1), images=images[:1], videos=[images]
    )
    slots = anyres_patch_index(9, 20, SETTINGS)
    assert both.num_crops == slots.crops + 3
    assert both.num_image_tokens == slots.count + 13


def test_images_in_messages_are_those_beside_them(tmp_path):
    from PIL import Image

    image = random_image(9, 20)
    Image.fromarray(image).save(tmp_path / "a.png")
    beside = PROCESSOR.prompt(question(), images=[image])
    messages = question()
    messages[0]["content"][0]["image"] = str(tmp_path / "a.png")
    inside = PROCESSOR.prompt(messages)
    np.testing.assert_array_equal(inside.crops, beside.crops)
    np.testing.assert_array_equal(inside.layout.tokens, beside.layout.tokens)
    with pytest.raises(ValueError, match="1 images are in the messages and 1 beside"):
        PROCESSOR.prompt(messages, images=[image])


def test_bad_pictures_are_named(tmp_path):
    image = random_image(9, 20)
    with pytest.raises(ValueError, match=r"image 2 of 2 '.*gone.png': there is no"):
        PROCESSOR.prompt(question(images=2), images=[image, tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="frame 2 of video 1: it is damaged"):
        PROCESSOR.prompt(question(images=0, videos=1), videos=[[image, b"none"]])
    with pytest.raises(
        ValueError, match=r"A video is a file or the list of its frames.*got \[\]"
    ):
        PROCESSOR.prompt(question(images=0, videos=1), videos=[[]])
    with pytest.raises(ValueError, match=r"image 'a.png': there is no"):
        PROCESSOR.prompt(question(), images="a.png")
    with pytest.raises(ValueError, match="not a int"):
        PROCESSOR.prompt(question(), images=3)
    long = np.zeros((1, 9500, 3), np.uint8)
    with pytest.raises(
        ValueError, match="image of 9500 x 1, padded to a square, has more"
    ):
        PROCESSOR.prompt(question(images=2), images=[image, long])


def test_what_no_bucket_holds_is_refused():
    with pytest.raises(ValueError, match=r"\d{3} text tokens.*'text_tokens': 128"):
        ladder().choose(sample(14, 14, "x" * 100))
    with pytest.raises(ValueError, match="does not hold samples"):
        ladder().batch([sample(40, 40)], ladder().all[0])
    with pytest.raises(ValueError, match="batch_size=0"):
        next(ladder().batches([], 0))
    with pytest.raises(ValueError, match="At least one bucket"):
        Buckets([], SETTINGS, pad_id=0)
    with pytest.raises(ValueError, match="at least 1"):
        Bucket(crops=0, image_tokens=1, text_tokens=1)
    with pytest.raises(ValueError, match="corners must be 1 or 4"):
        Bucket(crops=1, image_tokens=1, text_tokens=1, corners=2)


def test_room_for_new_tokens_is_kept():
    image = random_image(14, 14)
    length = sample(14, 14, "?").layout.length
    processor = dataclasses.replace(PROCESSOR, max_length=length + 7)
    processor.prompt(question("?"), images=[image], room=7)
    with pytest.raises(ValueError, match=f"answer up to 8, the context {length + 7}:"):
        processor.prompt(question("?"), images=[image], room=8)
