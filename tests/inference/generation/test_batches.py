"""A batch of N prompts is answered as N batches of one: every N, every budget."""

import dataclasses
import functools

import numpy as np
import pytest

from tests import tiny
from tests.inference.prompts import left_padded
from tests.tolerances import REORDERED
from visor_jax.inference.generation.decode import decode
from visor_jax.inference.generation.prefill import prefill
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.vlm import VLM

CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    decoder=dataclasses.replace(tiny.DECODER, tie_embeddings=False),
    plan=LayerPlan.build(3, cross=(1,), self_=(0, 2)),
)
MODEL = VLM(CONFIG)
PARAMS = tiny.params_of(CONFIG)["params"]
BUDGETS = list(tiny.every_budget(CONFIG))
MOST, NEW, PAD = 8, 4, 0
# Text before the image, image tokens, question; two rows have no image at all.
LAYOUTS = (
    *((0, 12, 5), (2, 4, 1), (0, 0, 6), (1, 9, 3)),
    *((3, 1, 2), (0, 7, 8), (0, 0, 1), (2, 14, 4)),
)


@functools.cache
def whole_batch():
    """Returns the eight prompts; rows of even number are padded on the left."""
    samples = [
        tiny.Sample(before=before, image=image, questions=(question,))
        for before, image, question in LAYOUTS
    ]
    right = tiny.random_batch(CONFIG, samples)
    left = left_padded(right)
    even = np.arange(MOST) % 2 == 0

    def mixed(name):
        one, other = getattr(left, name), getattr(right, name)
        if one is None:
            return None
        return np.where(even.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return right.replace(**{name: mixed(name) for name in right.__dataclass_fields__})


def trimmed(batch, row):
    """Returns one prompt without its padding, of text, image and crops alike."""
    one = batch.map(lambda x: x[row : row + 1])
    text, image = one.text_mask[0], one.image_mask[0]
    fields = {}
    for name in one.__dataclass_fields__:
        value = getattr(one, name)
        if value is None or name == "pixels":
            continue
        fields[name] = value[:, image if name.startswith("image") else text]
    return one.replace(**fields)


def read_and_write(batch, budget):
    """Returns the logits after the prompts and the greedy answers."""
    prompts = prefill(MODEL, PARAMS, batch, budget, spare=NEW - 1)
    tokens = decode(MODEL, PARAMS, prompts, max_new_tokens=NEW, eos_id=-1, pad_id=PAD)
    return np.asarray(prompts.logits), np.asarray(tokens)


@functools.cache
def alone(row, budget):
    # Same shapes as in the batch, so that all rows share one program.
    batch = whole_batch().map(lambda x: x[row : row + 1])
    return read_and_write(batch, budget)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_eight_mixed_prompts_at_once(budget):
    logits, tokens = read_and_write(whole_batch(), budget)
    for row in range(MOST):
        expected_logits, expected_tokens = alone(row, budget)
        np.testing.assert_allclose(logits[row], expected_logits[0], **REORDERED)
        np.testing.assert_array_equal(tokens[row], expected_tokens[0])
    assert len({tuple(row) for row in tokens.tolist()}) > MOST // 2


@pytest.mark.parametrize("size", range(1, MOST))
def test_any_number_of_prompts(size):
    budget = BUDGETS[-1]
    batch = whole_batch().map(lambda x: x[MOST - size :])
    logits, tokens = read_and_write(batch, budget)
    for place, row in enumerate(range(MOST - size, MOST)):
        expected_logits, expected_tokens = alone(row, budget)
        np.testing.assert_allclose(logits[place], expected_logits[0], **REORDERED)
        np.testing.assert_array_equal(tokens[place], expected_tokens[0])


@pytest.mark.parametrize("row", [2, 4])
def test_a_prompt_without_any_padding(row):
    """...is what a batch of one holds when nobody else needs the room."""
    budget = BUDGETS[-1]
    logits, tokens = read_and_write(trimmed(whole_batch(), row), budget)
    expected_logits, expected_tokens = alone(row, budget)
    np.testing.assert_allclose(logits, expected_logits, **REORDERED)
    np.testing.assert_array_equal(tokens, expected_tokens)
