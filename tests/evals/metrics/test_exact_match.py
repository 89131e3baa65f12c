"""Exact match: what lmms-eval 0.7.3 computes for GQA, and words of the pages."""

import pytest

from visor_jax.data.pages.questions import QUESTIONS
from visor_jax.data.pages.words import TOKENS
from visor_jax.evals.metrics.exact_match import exact_match


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Yes.", "yes", 1.0),
        ("the car", "car", 0.0),
        ("T-shirt", "tshirt", 1.0),
        ("T-shirt", "t shirt", 0.0),
        ("two", "2", 0.0),
        ("café", "cafe", 0.0),
        (" left\n", "Left", 1.0),
        ("", "no", 0.0),
    ],
)
def test_scores_as_the_published_harness(answer, reference, score):
    assert exact_match(answer, [reference]) == score


def test_one_of_several_references_is_enough():
    assert exact_match("grey", ["gray", "grey"]) == 1.0
    assert exact_match("gray grey", ["gray", "grey"]) == 0.0


def test_of_the_words_of_pages_only_the_right_one_is_right():
    """However the rule folds words, no two of the closed vocabulary become one."""
    for answer in {word for question in QUESTIONS for word in question.words}:
        assert [w for w in TOKENS if exact_match(w, [answer])] == [answer]
        # Nor does a word that follows the right one go unseen.
        assert not any(exact_match(f"{answer} {word}", [answer]) for word in TOKENS)
