"""Some crops of an image: as the whole pass in which the other tokens are masked."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from tests.data import tiny_llava
from tests.data.tiny_llava import image_settings, question, random_image
from tests.tolerances import REORDERED
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.models.decoder import cross_attention
from visor_jax.models.vlm import VLM, begin_batch
from visor_jax.ops.depthwise_conv import depthwise_conv_at

# Crops of 3 x 3 patches, resized beyond 3 tiles' worth of them.
SETTINGS = dataclasses.replace(image_settings(tile=14, patch=4, side=3), max_tiles=3)
PROCESSOR = ChatProcessor(tokenizer=tiny_llava.tokenizer(), images=SETTINGS)
PER_CROP = SETTINGS.patches_per_crop
# Grids that are resized and not, a tall image with its padding cut off, two images.
WHOLE = [
    PROCESSOR.prompt(question("Why is it?"), images=[random_image(28, 28)]),
    PROCESSOR.prompt(question("?"), images=[random_image(14, 28)]),
    PROCESSOR.prompt(question("Who?"), images=[random_image(42, 10)]),
    PROCESSOR.prompt(
        question("Both?", images=2), images=[random_image(9, 9), random_image(14, 14)]
    ),
]
CROPS = [(0, 2, 3), (0, 1), (0, 2), None]
BUCKET = Bucket(crops=5, image_tokens=56, text_tokens=96, corners=4)
LESS = dataclasses.replace(BUCKET, crops=3, image_tokens=40)
BUCKETS = Buckets([BUCKET, LESS], SETTINGS, pad_id=tiny_llava.PAD)

# Every kind of layer, in every place that it has in a plan.
NAMES = ("visor", "dense", "read", "grouped", "convolved")


def network(name):
    config = tiny.NETWORKS[name]
    decoder = dataclasses.replace(config.decoder, vocab_size=264)
    return config.replace(decoder=decoder)


def looked_at(samples, crops):
    return [
        sample if chosen is None else sample.of_crops(chosen, PER_CROP)
        for sample, chosen in zip(samples, crops, strict=True)
    ]


def masked(samples, parts):
    """Returns all tokens of all crops, those that parts lack not valid."""
    batch = BUCKETS.batch(samples, BUCKET)
    for row, part in enumerate(parts):
        if part.image_places is not None:
            there = np.isin(np.arange(BUCKET.image_tokens), part.image_places)
            batch.image_mask[row] &= there
    return batch


def text_logits(config, batch, gates):
    found = tiny.forward_traced(
        tiny.params_of(config), batch, np.array(gates, bool), config=config
    )
    return np.where(batch.text_mask[..., None], found.logits, 0)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_masked_tokens(name):
    """Mixed subsets in one batch and whole rows beside them; every budget."""
    config, parts = network(name), looked_at(WHOLE, CROPS)
    less, whole = BUCKETS.batch(parts, LESS), masked(WHOLE, parts)
    for budget in tiny.every_budget(config):
        gates = budget.gates(config.plan)
        found = text_logits(config, less, gates)
        np.testing.assert_allclose(
            found, text_logits(config, whole, gates), **REORDERED
        )
    # Neighbours in memory are not what the convolution is about.
    wrong = less.replace(image_places=np.tile(np.arange(LESS.image_tokens), (4, 1)))
    off = np.abs(text_logits(config, wrong, gates) - found)[:3].max()
    assert (off > 1e-3) == bool(config.plan.cross_layers)
    # And the crops that are not looked at would have mattered.
    every = text_logits(config, BUCKETS.batch(WHOLE, BUCKET), gates)
    assert np.abs(every - found)[:3].max() > 1e-2


def test_a_mixed_batch_is_each_sample_by_itself():
    config, parts = network("visor"), looked_at(WHOLE, CROPS)
    gates = tiny.all_on(config)
    together = text_logits(config, BUCKETS.batch(parts, LESS), gates)
    for row, part in enumerate(parts):
        alone = text_logits(config, BUCKETS.batch([part] * 4, LESS), gates)
        np.testing.assert_allclose(together[row], alone[0], **REORDERED)


def test_text_and_base_view_keep_their_places():
    """Tokens before the first layer with their rotary tables: the whole pass's own."""
    config = network("visor")
    parts = looked_at(WHOLE[:3], [(0,)] * 3)

    @jax.jit
    def begun(batch):
        model = VLM(config)
        return model.apply(tiny.params_of(config), batch, method=begin_batch)

    base = begun(BUCKETS.batch(parts, LESS))
    whole = begun(BUCKETS.batch(WHOLE[:3], BUCKET))
    for found, expected in (
        (base.text.rotary, whole.text.rotary),
        (base.text.tags, whole.text.tags),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("hidden", "tags", "rotary"):
        found, expected = getattr(base.image, name), getattr(whole.image, name)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(
                x[:, :PER_CROP], y[:, :PER_CROP], **REORDERED
            ),
            found,
            expected,
        )


def test_whole_images_run_the_programs_that_they_always_ran(monkeypatch):
    """Without places the plain convolution is traced; with them the other one."""
    config, traced = network("visor"), []

    def noted(*arguments):
        traced.append(len(arguments))
        return depthwise_conv_at(*arguments)

    monkeypatch.setattr(cross_attention, "depthwise_conv_at", noted)
    params, gates = tiny.params_of(config), tiny.all_on(config)

    def program(batch):
        return VLM(config).apply(params, batch, gates).logits

    jax.eval_shape(program, BUCKETS.batch(WHOLE, BUCKET))
    assert traced == []
    parts = looked_at(WHOLE, CROPS)
    jax.eval_shape(program, BUCKETS.batch(parts, LESS))
    assert traced == [3] * len(config.plan.cross_layers)
