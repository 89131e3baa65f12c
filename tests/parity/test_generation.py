"""Whole answers against `generate` of `transformers`: prompts of mixed lengths and
sizes of images, padded on the left there, several end tokens, repetition penalty.
"""

import functools

import numpy as np
import pytest

from tests.parity.test_llava_onevision import (
    GRID,
    IMAGE_TOKEN,
    SIDE,
    grid_index,
    mapped,
    our_config,
    randomised,
    text_config,
    vision_config,
)
from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.generation.generate import generate, stream
from visor_jax.models.vlm import VLM

pytestmark = pytest.mark.parity

NEW, PAD, NEVER = 10, 319, -1
CROPS, WIDTH = 1 + GRID * GRID, GRID * SIDE
# Height of the image, rows of patches that show it, text before and after it.
PROMPTS = ((112, range(8), 3, 7), (70, range(1, 7), 6, 2), (112, range(8), 1, 4))


@functools.cache
def torch_model():
    import torch
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
    )

    pinpoints = [[SIDE * i, SIDE * j] for i in range(1, 4) for j in range(1, 4)]
    config = LlavaOnevisionConfig(
        vision_config=vision_config(),
        text_config=text_config(False),
        image_token_index=IMAGE_TOKEN,
        video_token_index=IMAGE_TOKEN + 1,
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = randomised(LlavaOnevisionForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Otherwise what is written hardly depends on what was read.
            if "language_model" in name and parameter.ndim == 2:
                parameter.mul_(5)
    return model


@functools.cache
def prompts():
    """Returns each prompt's ids, image placeholders among them, and all pixels."""
    rng = np.random.default_rng(4)
    ids = []
    for _, rows, before, after in PROMPTS:
        image = np.full(len(grid_index(rows)), IMAGE_TOKEN)
        text = rng.integers(0, 290, before), rng.integers(0, 290, after)
        ids.append(np.concatenate([text[0], image, text[1]]))
    shape = (len(PROMPTS), CROPS, SIDE, SIDE, 3)
    return ids, rng.normal(size=shape).astype(np.float32)


def by_transformers(rows, **settings):
    """Returns the new tokens of these rows as one left-padded batch."""
    import torch

    ids, pixels = prompts()
    length = max(len(ids[row]) for row in rows)
    padded = np.stack([np.pad(ids[row], (length - len(ids[row]), 0)) for row in rows])
    mask = np.stack([np.arange(length) >= length - len(ids[row]) for row in rows])
    with torch.no_grad():
        tokens = (
            torch_model()
            .generate(
                input_ids=torch.tensor(padded),
                attention_mask=torch.tensor(mask.astype(np.int64)),
                pixel_values=torch.tensor(pixels[rows]).permute(0, 1, 4, 2, 3),
                image_sizes=torch.tensor([[PROMPTS[row][0], WIDTH] for row in rows]),
                max_new_tokens=NEW,
                do_sample=False,
                pad_token_id=PAD,
                **settings,
            )
            .numpy()[:, length:]
        )
    return np.pad(tokens, ((0, 0), (0, NEW - tokens.shape[1])), constant_values=PAD)


@functools.cache
def our_batch():
    """Returns the prompts padded on the right, both streams with their positions."""
    ids, pixels = prompts()
    are_images = [row == IMAGE_TOKEN for row in ids]
    indices = [grid_index(rows) for _, rows, _, _ in PROMPTS]
    tokens = padded([row[~image] for row, image in zip(ids, are_images, strict=True)])
    image_index = padded(indices)
    return Batch(
        pixels=pixels,
        image_token_index=np.maximum(image_index, 0),
        image_positions=padded([np.flatnonzero(image) for image in are_images], 0),
        image_mask=image_index >= 0,
        tokens=np.maximum(tokens, 0),
        text_positions=padded([np.flatnonzero(~image) for image in are_images], 0),
        text_segments=np.zeros_like(tokens),
        text_mask=tokens >= 0,
        targets=np.zeros_like(tokens),
        loss_mask=np.zeros(tokens.shape, bool),
    )


def padded(rows, filler=-1):
    length = max(map(len, rows))
    rows = [np.pad(row, (0, length - len(row)), constant_values=filler) for row in rows]
    return np.stack(rows).astype(np.int32)


def arguments(eos_id=NEVER, **settings):
    config = our_config(tied=False)
    network = VLM(config), mapped(torch_model()), our_batch(), Budget.all(config.plan)
    return network, {
        "max_new_tokens": NEW,
        "eos_id": eos_id,
        "pad_id": PAD,
        "sampling": Sampling(**settings),
    }


def ours(**settings):
    inputs, options = arguments(**settings)
    return np.asarray(generate(*inputs, **options))


def test_greedy_answers_of_a_mixed_batch():
    expected = by_transformers([0, 1, 2])
    assert len(np.unique(expected)) > NEW
    np.testing.assert_array_equal(ours(), expected)


def test_several_end_tokens():
    free = by_transformers([0, 1, 2])
    ends = [int(free[0, 2]), int(free[1, 5])]
    expected = by_transformers([0, 1, 2], eos_token_id=ends)
    assert (expected != free).any()
    np.testing.assert_array_equal(ours(eos_id=ends), expected)
    inputs, options = arguments(eos_id=ends)
    streamed = np.stack(list(stream(*inputs, **options)), axis=1)
    np.testing.assert_array_equal(streamed, expected[:, : streamed.shape[1]])


@pytest.mark.parametrize("penalty", [1.4, 0.8])
def test_repetition_penalty(penalty):
    # One by one: there, padding counts as used.
    rows = [
        by_transformers([row], repetition_penalty=penalty)
        for row in range(len(PROMPTS))
    ]
    expected = np.concatenate(rows)
    assert (expected != ours()).any()
    found = ours(repetition_penalty=penalty, also_used=(IMAGE_TOKEN,))
    np.testing.assert_array_equal(found, expected)
