import dataclasses

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from visor_jax.data.pages.batches import (
    EVALUATION_LENGTH,
    evaluation_batches,
)
from visor_jax.data.pages.questions import QUESTION_TASK, TASK_NAMES
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tower_batches import tower_batch, tower_batches
from visor_jax.data.pages.training_batches import PageQuestions, train_iterator
from visor_jax.data.pages.words import TOKENS

SMALL = PageDataSettings(
    pool_size=40, batch_size=3, questions_per_page=6, text_length=40, seed=2
)


def assert_same_batch(first, second):
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(
            getattr(first, field.name), getattr(second, field.name), err_msg=field.name
        )


def test_batch_has_the_agreed_fields(pool):
    batch = next(train_iterator(pool, SMALL, steps=4))
    fields = {
        field.name: (value.shape, value.dtype)
        for field in dataclasses.fields(batch)
        if (value := getattr(batch, field.name)) is not None
    }
    assert fields.pop("pixels") == ((3, 1, 96, 96, 3), np.float32)
    for name in ("image_token_index", "image_positions", "image_labels"):
        assert fields.pop(name) == ((3, 144), np.int32)
    assert fields.pop("image_mask") == ((3, 144), bool)
    for name in ("tokens", "text_positions", "text_segments", "targets"):
        assert fields.pop(name) == ((3, 40), np.int32)
    assert fields == {"text_mask": ((3, 40), bool), "loss_mask": ((3, 40), bool)}


def test_rows_carry_their_own_page_and_answers(pool):
    rows = PageQuestions(pool, SMALL, steps=4)
    batch = next(train_iterator(pool, SMALL, steps=4))
    for i in range(SMALL.batch_size):
        page, row = rows[i]
        np.testing.assert_array_equal(batch.tokens[i], row.tokens)
        pixels = (batch.pixels[i, 0] + 1) * 127.5
        np.testing.assert_allclose(pixels, pool.pages[page], atol=1e-3)
        labels = batch.image_labels[i].reshape(12, 12)[2::3, ::3][:3]
        np.testing.assert_array_equal(labels, pool.facts["digits"][page])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_resumed_iterator_gives_the_same_batches(pool, num_threads):
    def make():
        return train_iterator(pool, SMALL, steps=6, num_threads=num_threads)

    whole = make()
    before = [next(whole) for _ in range(2)]
    state = whole.get_state()
    after = list(whole)
    assert (len(before), len(after)) == (2, 4)
    resumed = make()
    resumed.set_state(state)
    for first, second in zip(after, resumed, strict=True):
        assert_same_batch(first, second)


def test_iterator_travels_with_an_orbax_checkpoint(pool, tmp_path):
    source = train_iterator(pool, SMALL, steps=4)
    next(source)
    with ocp.CheckpointManager(tmp_path) as manager:
        saved = grain.checkpoint.CheckpointSave(source)
        manager.save(1, args=ocp.args.Composite(data=saved))
        manager.wait_until_finished()
        restored = train_iterator(pool, SMALL, steps=4)
        wanted = grain.checkpoint.CheckpointRestore(restored)
        manager.restore(1, args=ocp.args.Composite(data=wanted))
    assert_same_batch(next(source), next(restored))


def test_phases_decide_the_tasks(pool):
    settings = dataclasses.replace(
        SMALL, phases=((0.5, {"ring": 1}), (1.0, {"mark": 1, "bar": 1}))
    )
    rows = PageQuestions(pool, settings, steps=4)
    assert [rows.phase_of(step) for step in range(4)] == [0, 0, 1, 1]
    tasks = [
        {TASK_NAMES[t] for i in span for t in QUESTION_TASK[rows[i][1].questions]}
        for span in (range(6), range(6, 12))
    ]
    assert tasks == [{"ring"}, {"mark", "bar"}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"pool_size": 0},
        {"questions_per_page": 0},
        {"text_length": 6},
        {"seed": -1},
        {"phases": ()},
        {"phases": ((0.5, {"ring": 1}),)},
        {"phases": ((0.7, {"ring": 1}), (0.5, {"ring": 1}), (1.0, {"ring": 1}))},
        {"phases": ((1.0, {"rings": 1}),)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\d|rings|Phases"):
        PageDataSettings(**wrong)


def test_evaluation_asks_every_page_every_task_once(pool):
    batches = list(evaluation_batches(pool, 16))
    assert len(batches) == 3
    index = np.concatenate([b.page_index for b in batches])
    assert index.tolist() == [*range(40), *[-1] * 8]
    for batch, task_ids, pages in batches:
        assert task_ids.shape == batch.tokens.shape == (16, EVALUATION_LENGTH)
        for row, page in enumerate(pages):
            if page < 0:
                assert (task_ids[row] == -1).all()
                assert not batch.loss_mask[row].any()
                continue
            places = np.flatnonzero(task_ids[row] >= 0)
            assert task_ids[row, places].tolist() == list(range(len(TASK_NAMES)))
            assert {TOKENS[t] for t in batch.tokens[row, places]} == {":"}
            assert batch.loss_mask[row, places].all()
            marked = batch.targets[row, places[TASK_NAMES.index("mark")]]
            row_of, column_of = pool.facts["mark"][page]
            assert TOKENS[marked] == str(pool.facts["digits"][page, row_of, column_of])


def test_evaluation_does_not_depend_on_the_batch_size(pool):
    by_two = [b.batch.tokens for b in evaluation_batches(pool, 2)]
    by_eight = [b.batch.tokens for b in evaluation_batches(pool, 8)]
    np.testing.assert_array_equal(np.concatenate(by_two), np.concatenate(by_eight))
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluation_batches(pool, 0)


def test_tower_labels_are_coarse_and_right(pool):
    batch = tower_batch(pool.pages, pool.facts)
    assert batch.luminance.shape == batch.ink.shape == (40, 144)
    patches = pool.pages.reshape(40, 12, 8, 12, 8, 3)
    luma = patches @ np.array([0.299, 0.587, 0.114]) / 255
    expected = luma.mean(axis=(2, 4)).reshape(40, 144)
    np.testing.assert_allclose(batch.luminance, expected, atol=1e-5)
    for i, record in enumerate(pool.facts):
        row, column = record["mark"]
        cell = np.s_[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert batch.saturated[i].reshape(12, 12)[cell].any()
        assert batch.ink[i].reshape(12, 12)[cell].any()
    plain = pool.facts["squares"] == 0
    # The mark alone spans at most three patches in width and two in height.
    assert batch.saturated[plain].sum(axis=1).max() <= 6
    np.testing.assert_array_equal(batch.squares, ~plain)


def test_tower_iterator_resumes(pool):
    whole = tower_batches(pool, batch_size=4, steps=3, seed=1)
    next(whole)
    resumed = tower_batches(pool, batch_size=4, steps=3, seed=1)
    resumed.set_state(whole.get_state())
    rest = list(resumed)
    assert len(rest) == 2
    for first, second in zip(whole, rest, strict=True):
        assert_same_batch(first, second)
    with pytest.raises(ValueError, match="steps=0"):
        tower_batches(pool, batch_size=4, steps=0)
