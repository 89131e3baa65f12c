import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visor_jax.data.pages.packing import (
    NUM_IMAGE_TOKENS,
    QUESTION_LENGTHS,
    normalise,
    pack_row,
    reading_labels,
)
from visor_jax.data.pages.questions import LONGEST_QUESTION, QUESTIONS
from visor_jax.data.pages.words import EOS, PAD, TOKEN_ID, ids_of

NUMBER_OF = {question.text: i for i, question in enumerate(QUESTIONS)}


def test_row_of_two_questions_written_by_hand():
    row = pack_row(
        np.array([NUMBER_OF["ring"], NUMBER_OF["bar B"]]),
        np.array(ids_of("yes 4")),
        text_length=9,
    )
    assert row.tokens.tolist() == ids_of("ring : yes bar B : 4 <pad> <pad>")
    assert row.targets.tolist() == ids_of(": yes <eos> B : 4 <eos> <pad> <pad>")
    positions = [144, 145, 146, 144, 145, 146, 147, 0, 0]
    assert row.positions.tolist() == positions
    assert row.segments.tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert row.mask.tolist() == [True] * 7 + [False] * 2
    assert np.flatnonzero(row.loss_mask).tolist() == [1, 2, 5, 6]
    assert row.answer_places.tolist() == [1, 5]


def test_a_question_that_does_not_fit_is_left_out():
    questions = np.array([NUMBER_OF["ring"], NUMBER_OF["bar B"], NUMBER_OF["ring"]])
    row = pack_row(questions, np.array(ids_of("yes 4 yes")), text_length=9)
    assert row.questions.tolist() == questions[:2].tolist()
    with pytest.raises(ValueError, match="text_length=2"):
        pack_row(questions, np.array(ids_of("yes 4 yes")), text_length=2)


@settings(max_examples=80, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, len(QUESTIONS) - 1), st.integers(4, len(TOKEN_ID) - 1)
        ),
        min_size=1,
        max_size=25,
    ),
    text_length=st.integers(LONGEST_QUESTION, 130),
)
def test_every_segment_is_one_question(asked, text_length):
    questions, answers = np.array(asked).T
    row = pack_row(questions, answers, text_length)
    kept = len(row.questions)
    assert np.array_equal(row.questions, questions[:kept])
    used = QUESTION_LENGTHS[questions[:kept]].sum()
    assert row.mask.sum() == used
    assert kept == len(asked) or used + QUESTION_LENGTHS[questions[kept]] > text_length
    for k in range(kept):
        at = np.flatnonzero(row.segments == k + 1)
        words = ids_of(f"{QUESTIONS[questions[k]].text} :")
        assert row.tokens[at].tolist() == [*words, answers[k]]
        assert row.targets[at].tolist() == [*words[1:], answers[k], TOKEN_ID[EOS]]
        assert row.positions[at].tolist() == list(
            range(NUM_IMAGE_TOKENS, NUM_IMAGE_TOKENS + len(at))
        )
        assert np.flatnonzero(row.loss_mask[at]).tolist() == [len(at) - 2, len(at) - 1]
        assert row.answer_places[k] == at[-2]
    padding = ~row.mask
    assert np.array_equal(row.segments == 0, padding)
    assert (row.tokens[padding] == TOKEN_ID[PAD]).all()
    assert not row.loss_mask[padding].any()
    fields = ("tokens", "positions", "segments", "targets")
    assert all(getattr(row, name).dtype == np.int32 for name in fields)


def test_reading_labels_sit_in_the_bottom_row_of_each_cell():
    digits = np.arange(12).reshape(1, 3, 4) % 10
    labels = reading_labels(digits).reshape(12, 12)
    assert labels[2].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert labels[8].tolist() == [8, 8, 8, 9, 9, 9, 0, 0, 0, 1, 1, 1]
    others = np.delete(labels, [2, 5, 8], axis=0)
    assert (others == -1).all()
    assert labels.dtype == np.int32


def test_normalised_pixels_are_in_minus_one_to_one():
    pages = np.array([0, 51, 255], np.uint8).repeat(96 * 96).reshape(1, 96, 96, 3)
    pixels = normalise(pages)
    assert pixels.shape == (1, 1, 96, 96, 3)
    assert pixels.dtype == np.float32
    expected = (pages[:, None] / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
