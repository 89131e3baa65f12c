"""Crops, tokens and labels of tiled pages, in training, evaluation and prompts."""

import numpy as np
import pytest

from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.pages.batches import evaluation_batches
from visor_jax.data.pages.forms import TILE_IMAGES, TileForm, forms_of, vocabulary_of
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tiles.questions import book_of
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.pages.training_batches import PageQuestions, train_iterator

ALIKE = dict.fromkeys(book_of(2).task_names, 1.0)
SMALL = PageDataSettings(
    kind="tiles",
    pool_size=30,
    batch_size=3,
    questions_per_page=6,
    text_length=40,
    seed=2,
    phases=((1.0, ALIKE),),
)
TOKENS = {2: 36 + 12 * 13, 3: 36 + 18 * 19}


def test_sizes_take_turns_and_carry_their_own_pages(pools):
    both = list(pools.values())
    rows = PageQuestions(both, SMALL, steps=4)
    for step, batch in enumerate(train_iterator(both, SMALL, steps=4)):
        grid = (2, 3)[step % 2]
        assert batch.pixels.shape == (3, 1 + grid**2, 48, 48, 3)
        assert batch.image_token_index.shape == (3, TOKENS[grid])
        assert batch.text_positions[batch.text_mask].min() == TOKENS[grid]
        for row in range(3):
            page, packed = rows[step * 3 + row]
            page -= 30 * (step % 2)
            np.testing.assert_array_equal(batch.tokens[row], packed.tokens)
            crops = anyres_crops(pools[grid].pages[page], TILE_IMAGES)
            np.testing.assert_array_equal(batch.pixels[row], crops)
            tiles = np.rint((crops[1:] + 1) * 127.5).reshape(grid, grid, 48, 48, 3)
            whole = tiles.swapaxes(1, 2).reshape(48 * grid, 48 * grid, 3)
            np.testing.assert_array_equal(whole, pools[grid].pages[page])


@pytest.mark.parametrize("grid", [2, 3])
def test_labels_stand_where_a_digit_is_complete(pools, grid):
    facts, form = pools[grid].facts, TileForm(grid)
    labels = form.reading_labels(facts)
    assert labels.shape == (30, TOKENS[grid])
    assert (labels[:, :36] == -1).all()
    stitched = labels[:, 36:].reshape(30, 6 * grid, 6 * grid + 1)
    assert (stitched[:, :, -1] == -1).all()
    for tile in range(grid * grid):
        y, x = (6 * place for place in divmod(tile, grid))
        mine = stitched[:, y : y + 6, x : x + 6]
        for side, columns in enumerate(([0, 1, 2], [3, 4, 5])):
            digits = facts["digits"][:, tile, side, None]
            assert (mine[:, 2, columns] == digits).all()
        assert (mine[:, [0, 1, 3, 4, 5]] == -1).all()


def test_a_question_of_its_own_is_as_in_its_row(pools):
    processor = page_processor(page_tokenizer(vocabulary_of("tiles")), "tiles")
    for grid, pool in pools.items():
        asked = next(evaluation_batches(pool, 4))
        page, book = pool.pages[1], book_of(grid)
        row = asked.batch.map(lambda field: field[1:2])
        for segment, task in enumerate(book.task_names, 1):
            mine = (row.text_segments[0] == segment) & row.text_mask[0]
            ids = row.tokens[0, mine][:-1]
            text = processor.tokenizer.decode(ids[:-1])
            message = [{"role": "user", "content": text}]
            sample = processor.prompts.prompt(message, images=[page])
            group = next(processor.buckets.batches([sample]))
            found = group.batch
            length = len(ids)
            np.testing.assert_array_equal(found.tokens[0, :length], ids, task)
            for name in ("pixels", "image_token_index", "image_positions"):
                same = getattr(found, name), getattr(row, name)
                np.testing.assert_array_equal(*same, name)
            np.testing.assert_array_equal(
                found.text_positions[0, :length], row.text_positions[0, mine][:-1]
            )


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="Unknown pages 'tables'"):
        PageDataSettings(kind="tables")
    with pytest.raises(ValueError, match="Unknown tasks"):
        PageDataSettings(kind="tiles")
    with pytest.raises(ValueError, match="text_length=5"):
        PageDataSettings(kind="tiles", text_length=5, phases=((1.0, ALIKE),))
    assert [form.patch_index.crops for form in forms_of("tiles")] == [5, 10]
