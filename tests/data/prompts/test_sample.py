"""Samples without some of their crops: tokens, places, and the other rule."""

import dataclasses

import numpy as np
import pytest

from tests.data import tiny_llava
from tests.data.tiny_llava import SIZES, image_settings, question, random_image
from tests.tolerances import EXACT
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.patch_index import (
    NEWLINE,
    square_patch_index,
    video_patch_index,
)
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.token_layout import lay_out

# Crops of 3 x 3 patches, resized beyond 3 tiles' worth of them.
SETTINGS = dataclasses.replace(image_settings(tile=14, patch=4, side=3), max_tiles=3)
PROCESSOR = ChatProcessor(tokenizer=tiny_llava.tokenizer(), images=SETTINGS)
PER_CROP = SETTINGS.patches_per_crop


def sample(height, width, words="Why?"):
    return PROCESSOR.prompt(question(words), images=[random_image(height, width)])


def patch_sets(index):
    """Returns of each token the patches that count in it, by plain loops."""
    rows = index.index.reshape(index.count, -1).tolist()
    weights = [[1.0]] * index.count if index.weights is None else index.weights.tolist()
    return [
        {patch for patch, weight in zip(row, each, strict=True) if weight}
        for row, each in zip(rows, weights, strict=True)
    ]


def expected_places(index, crops):
    """Returns the tokens that stay, token by token; newlines by their grid row."""
    kept, row = [], []
    for place, patches in enumerate(patch_sets(index)):
        if patches == {NEWLINE}:
            kept += [place] * any(row)
            row = []
        else:
            stays = all(patch // PER_CROP in crops for patch in patches)
            kept += [place] * stays
            # The base view stands before the first row of the grid.
            row.append(stays and place >= PER_CROP)
    return kept


def features(index, patches):
    """Returns what tokens are made of; the newline is a patch of its own."""
    rows = np.concatenate([patches.reshape(-1, 2), [[7.0, 8.0]]])
    if index.weights is None:
        return rows[index.index]
    return np.einsum("vkd,vk->vd", rows[index.index], index.weights)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_of_the_crops_that_are_looked_at(size):
    whole, rng = sample(*size), np.random.default_rng(0)
    patches = rng.normal(size=(whole.num_crops, PER_CROP, 2))
    tiles = range(1, whole.num_crops)
    for crops in [(0,), (0, tiles[-1]), (0, *tiles[::2]), (0, *tiles[1:]), tiles[1:]]:
        crops = tuple(crops)
        if not crops or len(crops) == whole.num_crops:
            continue
        part = whole.of_crops(crops, PER_CROP)
        places = expected_places(whole.patch_index, crops)
        assert part.image_places.tolist() == places
        np.testing.assert_array_equal(part.crops, whole.crops[list(crops)])
        # The same tokens, at their places, of the crops that are left.
        np.testing.assert_allclose(
            features(part.patch_index, patches[list(crops)]),
            features(whole.patch_index, patches)[places],
            **EXACT,
        )
        layout = dataclasses.replace(
            whole.layout, image_positions=whole.layout.image_positions[places]
        )
        for name, values in vars(layout).items():
            np.testing.assert_array_equal(getattr(part.layout, name), values)


def test_the_sizes_have_resized_grids_and_seams_within_tokens():
    corners = {sample(*size).patch_index.corners for size in SIZES}
    assert corners == {1, 4}
    whole = sample(300, 330)
    over_two = [
        patches
        for patches in patch_sets(whole.patch_index)
        if len({patch // PER_CROP for patch in patches}) > 1
    ]
    # In neither of two tiles alone.
    assert len(over_two) > PER_CROP


def test_base_view_of_a_resized_image_is_a_plain_index():
    base = sample(300, 330).of_crops([0], PER_CROP)
    assert base.patch_index.weights is None
    assert base.patch_index.index.tolist() == list(range(PER_CROP))


def test_drawn_example():
    """The example of `patch_index`: 2 x 2 patches per crop, one row of two tiles."""
    settings = image_settings(tile=8, patch=4, side=2)
    processor = ChatProcessor(tokenizer=tiny_llava.tokenizer(), images=settings)
    whole = processor.prompt(question(), images=[random_image(8, 16)])
    n = NEWLINE
    drawn = [0, 1, 2, 3, 4, 5, 8, 9, n, 6, 7, 10, 11, n]
    assert whole.patch_index.index.tolist() == drawn
    part = whole.of_crops([0, 2], 4)
    assert part.image_places.tolist() == [0, 1, 2, 3, 6, 7, 8, 11, 12, 13]
    assert part.patch_index.index.tolist() == [0, 1, 2, 3, 4, 5, n, 6, 7, n]


def test_all_crops_are_the_sample_itself():
    whole = sample(28, 28)
    assert whole.of_crops(range(whole.num_crops), PER_CROP) is whole


def test_base_alone_is_laid_out_as_an_image_of_one_crop():
    whole = sample(40, 30, "What is it?")
    base = whole.base_alone(PER_CROP)
    pieces = PROCESSOR.pieces(question("What is it?"), generation_prompt=True)
    one_crop = square_patch_index(SETTINGS)
    layout = lay_out(pieces, PROCESSOR.tokenizer, images=[one_crop.count])
    for name, values in vars(layout).items():
        np.testing.assert_array_equal(getattr(base.layout, name), values)
    np.testing.assert_array_equal(base.patch_index.index, one_crop.index)
    np.testing.assert_array_equal(base.crops, whole.crops[:1])
    assert base.image_places is None


def test_newlines_of_one_of_several_images_and_of_videos():
    square = square_patch_index(SETTINGS)
    _, kept = square.of_crops([0], PER_CROP)
    assert len(kept) == square.count
    video = video_patch_index(3, SETTINGS)
    _, kept = video.of_crops([1], PER_CROP)
    per_frame = (video.count - 1) // 3
    assert kept.tolist() == [*range(per_frame, 2 * per_frame), video.count - 1]


def test_batches_say_where_tokens_stand_only_where_crops_are_left_out():
    whole = sample(28, 28)
    bucket = Bucket(crops=5, image_tokens=64, text_tokens=128, corners=4)
    buckets = Buckets([bucket], SETTINGS, pad_id=0)
    assert buckets.batch([whole], bucket).image_places is None
    part = whole.of_crops([0, 3], PER_CROP)
    batch = buckets.batch([part, whole], bucket)
    for row, each in enumerate((part.image_places, np.arange(whole.num_image_tokens))):
        places = batch.image_places[row]
        np.testing.assert_array_equal(places[batch.image_mask[row]], each)
        assert not places[~batch.image_mask[row]].any()


def test_crops_that_cannot_be_left_out():
    whole = sample(28, 28)
    part = whole.of_crops([0, 1], PER_CROP)
    for crops in ([1, 0], [0, 0], [0, 5], [-1]):
        with pytest.raises(ValueError, match="no ascending choice of the 5"):
            whole.of_crops(crops, PER_CROP)
    with pytest.raises(ValueError, match="at least one crop"):
        whole.of_crops([], PER_CROP)
    with pytest.raises(ValueError, match="gone before"):
        part.of_crops([0], PER_CROP)
    images = [random_image(20, 20), random_image(9, 9)]
    two = PROCESSOR.prompt(question(images=2), images=images)
    text = PROCESSOR.prompt(question(images=0))
    for each, name in ((two, "'image', 'image'"), (text, "no image")):
        assert not each.has_tiles
        for left in (lambda x: x.of_crops([0], PER_CROP), lambda x: x.base_alone(9)):
            with pytest.raises(ValueError, match=name):
                left(each)
