"""Pictures and messages in, the logits of transformers out.

transformers gets its own pixels, and ids in which every placeholder is repeated; its
model refuses a wrong count. The network gets what `ChatProcessor` and `Buckets` make.
"""

import functools

import jax
import numpy as np
import pytest

from tests.data import tiny_llava
from tests.data.tiny_llava import hf_image_processor, image_settings, random_image
from tests.parity.test_llava_onevision import (
    mapped,
    our_config,
    randomised,
    text_config,
    vision_config,
)
from tests.tolerances import PARITY
from visor_jax.data.anyres import frame_crops
from visor_jax.data.buckets import Buckets
from visor_jax.data.chat_template import render
from visor_jax.data.image_slots import num_anyres_tokens, square_slots
from visor_jax.data.samples import ChatProcessor
from visor_jax.models.vlm import VLM

pytestmark = pytest.mark.parity

TOKENIZER = tiny_llava.tokenizer()
TILES = (56, 60)
# Resized patches, tall, wide, exact grid, upscaled.
SIZES = ((300, 330), (500, 60), (60, 500), (112, 168), (20, 30))


@functools.cache
def network(tile):
    """Returns (model of transformers, its parameters as ours, our processor)."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
    )

    settings, tied = image_settings(tile), tile == TILES[0]
    model = randomised(
        LlavaOnevisionForConditionalGeneration(
            LlavaOnevisionConfig(
                vision_config=vision_config(image_size=tile),
                text_config=text_config(tied),
                image_token_index=tiny_llava.IMAGE,
                video_token_index=tiny_llava.VIDEO,
                image_grid_pinpoints=[list(point) for point in settings.pinpoints],
                tie_word_embeddings=tied,
                attn_implementation="eager",
            )
        )
    )
    params = mapped(model, drop=["lm_head.weight"] if tied else [])
    return model, params, ChatProcessor(tokenizer=TOKENIZER, images=settings)


def messages(images, videos):
    return [
        *tiny_llava.question("What is it?", images=len(images), videos=len(videos)),
        {"role": "assistant", "content": "A page."},
        {"role": "user", "content": "Ünd why?"},
    ]


def hf_ids(processor, images, videos):
    """Returns the ids of one prompt, placeholders repeated in the text."""
    settings = processor.images
    pieces = render(
        messages(images, videos), processor.template, generation_prompt=True
    )
    text = "".join(piece.text for piece in pieces)
    if len(images) == 1:
        counts = [num_anyres_tokens(*images[0].shape[:2], settings)]
    else:
        counts = [square_slots(settings).count] * len(images)
    half = -(-settings.patches_per_side // 2)
    for token, numbers in (
        ("<image>", counts),
        ("<video>", [len(frames) * half**2 + 1 for frames in videos]),
    ):
        head, *rest = text.split(token)
        text = head + "".join(
            token * n + tail for n, tail in zip(numbers, rest, strict=True)
        )
    return TOKENIZER(text)["input_ids"]


def hf_logits(tile, prompts):
    """Returns per prompt the logits of its text, from one left-padded batch."""
    import torch

    model, _, processor = network(tile)
    rows = [hf_ids(processor, *prompt) for prompt in prompts]
    longest = max(map(len, rows))
    padded = [[tiny_llava.PAD] * (longest - len(row)) + row for row in rows]
    ids = torch.tensor(padded)
    mask = (
        torch.arange(longest) >= torch.tensor([[longest - len(r)] for r in rows])
    ).long()
    inputs = {}
    nested = [images for images, _ in prompts if images]
    if nested:
        found = hf_image_processor(processor.images)(nested, return_tensors="np")
        inputs = {name: torch.tensor(value) for name, value in found.items()}
    frames = [frames for _, videos in prompts for frames in videos]
    if frames:
        crops = np.stack([frame_crops(video, processor.images) for video in frames])
        inputs["pixel_values_videos"] = torch.tensor(crops.transpose(0, 1, 4, 2, 3))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **inputs).logits.numpy()
    places = (tiny_llava.IMAGE, tiny_llava.VIDEO)
    return [
        values[longest - len(row) :][~np.isin(row, places)]
        for values, row in zip(logits, rows, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="tile")
def _forward(params, batch, tile):
    config = our_config(tied=tile == TILES[0], side=tile)
    return VLM(config).apply({"params": params}, batch, (True,) * 3).logits


def our_logits(tile, prompts):
    """Returns the same from one batch."""
    _, params, processor = network(tile)
    samples = [
        processor.prompt(messages(*prompt), images=prompt[0], videos=prompt[1])
        for prompt in prompts
    ]
    buckets = Buckets.ladder(
        processor.images,
        pad_id=tiny_llava.PAD,
        text_tokens=(128, 256),
        max_frames=8,
        multiple=16,
    )
    # All in the bucket of the largest: their padding differs.
    bucket = max((buckets.choose(s) for s in samples), key=buckets.all.index)
    if not all(bucket.holds(s) for s in samples):
        bucket = buckets.all[-1]
    logits = np.asarray(_forward(params, buckets.batch(samples, bucket), tile))
    return [
        values[: sample.num_text_tokens]
        for values, sample in zip(logits, samples, strict=True)
    ]


def compare(tile, prompts):
    for found, expected in zip(
        our_logits(tile, prompts), hf_logits(tile, prompts), strict=True
    ):
        np.testing.assert_allclose(found, expected, **PARITY)


@pytest.mark.parametrize("tile", TILES)
def test_a_batch_of_images_of_every_kind_of_size(tile):
    compare(tile, [([random_image(*size)], []) for size in SIZES])


@pytest.mark.parametrize("tile", TILES)
def test_one_several_and_no_images_in_a_batch(tile):
    images = [random_image(*size) for size in SIZES]
    compare(tile, [(images[:1], []), (images[1:4], []), ([], []), (images[4:], [])])


@pytest.mark.parametrize("tile", TILES)
def test_a_video(tile):
    frames = [random_image(40, 70, seed) for seed in range(3)]
    compare(tile, [([], [frames])])


def test_an_image_and_two_videos():
    videos = [[random_image(40, 70, s) for s in seeds] for seeds in ((1, 2), (3, 4))]
    compare(TILES[0], [([random_image(60, 90)], videos)])
