"""Which crops a training step looks at, and what its batch holds of them."""

import dataclasses

import numpy as np
import pytest

from tests.data.pages.tiles.test_forms import SMALL
from visor_jax.data.buckets import Bucket
from visor_jax.data.pages.batches import make_batch
from visor_jax.data.pages.forms import TileForm, form_of, vocabulary_of
from visor_jax.data.pages.packing import pack_row
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tiles.crop_draw import drawn_count, drawn_crops
from visor_jax.data.pages.tiles.words import COLOURS
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.pages.training_batches import PageQuestions, train_iterator

LOOKS = dataclasses.replace(SMALL, any_crops=True)


def test_every_number_of_crops_is_drawn_as_often():
    for crops in (5, 10):
        counts = [drawn_count(3, step, crops) for step in range(1500)]
        assert set(counts) == {1, 3, crops}
        assert min(counts.count(c) for c in set(counts)) > 420


def test_every_tile_is_drawn_as_often_and_the_base_view_always():
    drawn = [drawn_crops(3, 7, row, count=3, crops=10) for row in range(2000)]
    assert all(row[0] == 0 and len(row) == 3 and row[1] < row[2] for row in drawn)
    share = np.bincount([tile for row in drawn for tile in row[1:]])[1:] / len(drawn)
    np.testing.assert_allclose(share, 2 / 9, atol=0.05)


def test_steps_have_few_shapes_and_whole_ones_are_as_without(pools):
    both, steps = list(pools.values()), 24
    plain = train_iterator(both, SMALL, steps=steps)
    shapes = set()
    for step, batch in enumerate(train_iterator(both, LOOKS, steps=steps)):
        whole = next(plain)
        crops = batch.pixels.shape[1]
        assert crops == drawn_count(LOOKS.seed, step, whole.pixels.shape[1])
        shapes.add((crops, *batch.image_token_index.shape))
        names = ["tokens", "text_positions", "text_segments", "targets", "loss_mask"]
        if crops == whole.pixels.shape[1]:
            names += ["pixels", "image_token_index", "image_positions", "image_labels"]
        gaps = crops not in (1, whole.pixels.shape[1])
        assert (batch.image_places is not None) == gaps
        for name in names:
            same = getattr(batch, name), getattr(whole, name)
            np.testing.assert_array_equal(*same, name)
    assert shapes == {(1, 3, 36), (3, 3, 120), (5, 3, 192), (10, 3, 378)}


@pytest.mark.parametrize(("grid", "crops"), [(2, (0, 1, 4)), (3, (0, 5, 6)), (3, (0,))])
def test_a_look_is_that_of_a_prompt_with_these_crops(pools, grid, crops):
    pool, form = pools[grid], TileForm(grid)
    words = page_tokenizer(vocabulary_of("tiles"))
    processor = page_processor(words, "tiles")
    message = [{"role": "user", "content": "marked digit"}]
    sample = processor.prompts.prompt(message, images=[pool.pages[2]])
    row = pack_row(np.array([0]), np.array([5]), 40, book=form.book)
    facts = pool.facts[2:3]
    batch = make_batch(form, pool.pages[2:3], [row], facts, [crops])
    length = batch.image_token_index.shape[1]
    bucket = Bucket(crops=len(crops), image_tokens=length, text_tokens=8)
    expected = processor.buckets.batch([sample.of_crops(crops, 36)], bucket)
    names = ("pixels", "image_token_index", "image_positions", "image_mask")
    for name in (*names, "image_places"):
        same = getattr(batch, name), getattr(expected, name)
        np.testing.assert_array_equal(*same, name)
    # A digit's labels are there if its tile is.
    seen = np.bincount(batch.image_labels[0] + 1, minlength=11)[1:]
    tiles = [tile - 1 for tile in crops[1:]]
    digits = np.bincount(facts["digits"][0, tiles].reshape(-1), minlength=10)
    np.testing.assert_array_equal(seen, 3 * digits)


def test_phases_say_how_many_crops_their_steps_look_at(pools):
    phases = ((0.25, "base"), (0.5, "few"), (0.75, "all"), (1.0, "any"))
    first = dataclasses.replace(LOOKS, crop_phases=phases)
    batches = list(train_iterator(list(pools.values()), first, steps=16))
    drawn = [drawn_count(2, step, (5, 10)[step % 2]) for step in range(12, 16)]
    expected = [1] * 4 + [3] * 4 + [5, 10] * 2 + drawn
    assert [batch.pixels.shape[1] for batch in batches] == expected
    assert set(drawn) - {5, 10}
    with pytest.raises(ValueError, match=r"crop_phases=.* are for any_crops"):
        dataclasses.replace(SMALL, crop_phases=phases)
    with pytest.raises(ValueError, match=r"crop_phases name \['some'\]"):
        dataclasses.replace(LOOKS, crop_phases=((1.0, "some"),))
    with pytest.raises(ValueError, match="crop_phases must end at ascending"):
        dataclasses.replace(LOOKS, crop_phases=phases[:3])


def test_rows_of_few_crops_ask_only_about_what_they_see(pools):
    """Held to the words of the questions and the facts, not to the book's tiles."""
    both = list(pools.values())
    settings = dataclasses.replace(LOOKS, crop_phases=((1.0, "few"),))
    rows, kinds = PageQuestions(both, settings, steps=80), set()
    for number in range(240):
        page, row = rows[number]
        pool = both[page // 30]
        facts, book = pool.facts[page % 30], form_of(pool).book
        assert len(row.crops) == 3
        seen = {crop - 1 for crop in row.crops[1:]}
        for question in row.questions:
            task, *words = book.questions[question].text.split()
            colours = [COLOURS.index(word) for word in words if word in COLOURS]
            tiles = {int(np.flatnonzero(facts["colours"] == c)[0]) for c in colours}
            if task == "marked":
                tiles = {int(facts["mark"][0])}
            if task in ("digit", "largest", "marked"):
                assert tiles <= seen
            kinds.add((task, len(tiles), tiles <= seen))
    # Pairs of both tiles, the mark where it is seen, and glances at what is not.
    assert {("largest", 2, True), ("marked", 1, True)} <= kinds
    assert {("where", 1, False), ("shape", 1, False), ("digit", 1, True)} <= kinds


def test_the_rest_of_a_task_has_the_weight_of_what_is_not_seen(pools):
    weights = {"place": 1.0, "read": 3.0}
    settings = dataclasses.replace(
        LOOKS, crop_phases=((1.0, "few"),), phases=((1.0, weights),)
    )
    rows = PageQuestions(list(pools.values()), settings, steps=300)
    books = [form_of(pool).book for pool in pools.values()]
    for turn, book in enumerate(books):
        steps = range(turn, 300, 2)
        asked = [q for step in steps for q in rows[3 * step][1].questions]
        share = np.mean([book.questions[q].text.startswith("digit") for q in asked])
        # Three of four, though two tiles of nine have what it asks (5 sigma: 0.07).
        assert share == pytest.approx(0.75, abs=0.07)


def test_few_crops_are_nothing_where_only_tiles_answer():
    phases = ((0.5, "base"), (1.0, "few"))
    hard = ((0.5, {"place": 1.0, "mark": 1.0}), (1.0, {"mark": 1.0}))
    with pytest.raises(ValueError, match="may see nothing that they ask"):
        dataclasses.replace(LOOKS, crop_phases=phases, phases=hard)
    late = ((0.6, {"mark": 1.0}), (1.0, {"place": 1.0}))
    with pytest.raises(ValueError, match="may see nothing that they ask"):
        dataclasses.replace(LOOKS, crop_phases=phases, phases=late)
    # Those of the first half do not matter: it looks at the base view.
    other = ((0.5, {"mark": 1.0}), (1.0, {"place": 1.0, "mark": 1.0}))
    dataclasses.replace(LOOKS, crop_phases=phases, phases=other)


def test_pages_of_one_crop_have_nothing_to_draw():
    with pytest.raises(ValueError, match="any_crops"):
        PageDataSettings(any_crops=True)
