"""Training on drawn crops: what a step looks at, in which shapes, and again."""

import dataclasses

import numpy as np
import pytest

from tests.data.conversations import conversation_set
from tests.data.conversations.conversation_set import opened
from tests.data.conversations.test_training_batches import assert_same
from visor_jax.data.bucket_ladder import crop_rungs
from visor_jax.models.config import VLMConfig

STEPS = 24


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return conversation_set.draw(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def whole(converted, tmp_path_factory):
    return opened(converted, tmp_path_factory.mktemp("cache"), steps=STEPS)


@pytest.fixture(scope="module")
def drawn(whole):
    settings = dataclasses.replace(whole.settings, any_crops=True)
    return dataclasses.replace(whole, settings=settings)


def test_steps_look_at_drawn_crops_in_few_shapes(drawn, whole):
    source, plain = drawn.source(), whole.source()
    per_crop = drawn.processor.chat.images.patches_per_crop
    shapes, looked = set(), []
    for step in range(STEPS):
        batch, full = source[step]["batch"], plain[step]["batch"]
        assert full.image_places is None
        shapes.add(batch.pixels.shape[:2] + batch.image_mask.shape)
        numbers = [row.tolist() for row in drawn.plan.rows(step)]
        for row, (first, *_) in enumerate(numbers):
            data, at = drawn.samples.find(first)
            images = len(data.conversation(at).image_sizes)
            places = batch.image_places[row][batch.image_mask[row]]
            # Text and the places of what is left never move.
            for name in ("tokens", "text_positions", "loss_mask"):
                np.testing.assert_array_equal(
                    getattr(batch, name)[row], getattr(full, name)[row]
                )
            np.testing.assert_array_equal(
                batch.image_positions[row][batch.image_mask[row]],
                full.image_positions[row][places],
            )
            if images == 1:
                # The base view is always among them.
                assert places[:per_crop].tolist() == list(range(per_crop))
                np.testing.assert_array_equal(batch.pixels[row, 0], full.pixels[row, 0])
            if images == 1 and drawn.lengths.crops[first] > 2:
                looked.append(len(places) / full.image_mask[row].sum())
    # Fewer and all, and not always the same.
    assert min(looked) < 0.5
    assert max(looked) == 1.0
    assert len(set(looked)) > 5
    rungs = {b.crops: len(crop_rungs(b.crops)) for b in drawn.buckets.all}
    assert len(shapes) <= sum(rungs[b.crops] for b in set(drawn.buckets.all))


def test_the_same_step_comes_back_and_processes_read_their_rows(drawn):
    source = drawn.source()
    parts = [drawn.source(slice(i, i + 2)) for i in (0, 2)]
    for step in (0, 7, 13):
        batch = source[step]["batch"]
        assert_same(batch, drawn.source()[step]["batch"])
        halves = [part[step]["batch"] for part in parts]
        for name in ("pixels", "image_places", "image_token_index"):
            both = np.concatenate([getattr(half, name) for half in halves])
            np.testing.assert_array_equal(both, getattr(batch, name))


def test_the_digest_tells_drawn_crops_and_is_what_it_was_without(
    converted, whole, tmp_path
):
    other = opened(converted, tmp_path, steps=STEPS, any_crops=True)
    assert other.digest != whole.digest


def test_rungs():
    assert crop_rungs(1) == (1,)
    assert crop_rungs(5) == (1, 2, 3, 4, 5)
    assert crop_rungs(31) == (1, 2, 3, 4, 6, 9, 13, 19, 28, 31)


def test_a_network_says_that_it_was_trained_so_and_others_say_nothing():
    plain = conversation_set.NETWORK
    assert "any_crops" not in plain.to_dict()
    trained = plain.replace(any_crops=True)
    assert VLMConfig.from_dict(trained.to_dict()) == trained
