"""Answers of packed questions, on rows made by hand."""

import numpy as np
import pytest

from visor_jax.batch import Batch
from visor_jax.evals.packed_answers import known_tokens
from visor_jax.policy.packed_answers import PackedAnswers

END = 1


@pytest.fixture
def batch() -> Batch:
    """Two rows of two questions; an answer is one word, or two, and the end.

    The second row is laid out backwards: its later tokens come first.
    """
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [2, 2, 2, 1, 1, 1, 0, 0]], np.int32)
    order = [[7, 8, 9, 7, 8, 9, 10, 0], [9, 8, 7, 9, 8, 7, 0, 0]]
    positions = np.array(order, np.int32)
    targets = np.array([[9, 5, 1, 9, 6, 3, 1, 0], [1, 8, 9, 1, 7, 9, 0, 0]], np.int32)
    loss_mask = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0, 0, 0]], bool)
    empty = np.zeros((2, 1))
    return Batch(
        pixels=empty,
        image_token_index=empty,
        image_positions=empty,
        image_mask=empty,
        tokens=targets,
        text_positions=positions,
        text_segments=segments,
        text_mask=segments > 0,
        targets=targets,
        loss_mask=loss_mask,
    )


def answers(batch, *mistakes):
    """Returns the answers if the network is right but for (row, place, token)."""
    predicted = np.where(batch.loss_mask, batch.targets, 4).astype(np.int32)
    for row, place, token in mistakes:
        predicted[row, place] = token
    return known_tokens(PackedAnswers.of(batch), predicted, [END])


def test_right_answers_are_those_of_the_segments_in_order(batch):
    assert answers(batch) == [(5,), (6, 3), (7,), (8,)]


def test_the_first_wrong_token_is_the_last_that_is_known(batch):
    found = answers(batch, (0, 1, 2), (0, 4, 9), (1, 4, 3))
    assert found == [(2,), (9,), (3,), (8,)]


def test_an_answer_that_does_not_end_is_not_the_right_one(batch):
    assert answers(batch, (0, 2, 5)) == [(5, 5), (6, 3), (7,), (8,)]
    assert answers(batch, (0, 6, 2), (1, 0, 7)) == [(5,), (6, 3, 2), (7,), (8, 7)]


def test_an_answer_may_end_early(batch):
    assert answers(batch, (0, 1, END), (0, 5, END)) == [(), (6,), (7,), (8,)]


def test_what_no_loss_is_on_is_no_answer(batch):
    assert answers(batch, (0, 0, 2), (0, 3, 2), (1, 2, 2)) == answers(batch)
    batch.loss_mask[1] = False
    assert answers(batch) == [(5,), (6, 3)]
    batch.loss_mask[0] = False
    assert answers(batch) == []


def test_the_first_place_of_an_answer_is_the_prompts_last(batch):
    rows, indices = PackedAnswers.of(batch).routing_tokens()
    assert rows.tolist() == [0, 0, 1, 1]
    assert indices.tolist() == [1, 4, 4, 1]
