"""Letters of options: five rules on the same answers, as lmms-eval 0.7.3 reads them."""

import pytest

from visor_jax.evals.metrics.option_letter import (
    ai2d_score,
    extracted_letter,
    first_character,
    realworldqa_score,
    scienceqa_letter,
)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("B. cat", 1), ("b", 1), ("(B)", 1), ("B cat", 0), ("B: cat", 0), ("", 0)],
)
def test_ai2d(answer, score):
    assert ai2d_score(answer, "B") == score


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("B", "B"), ("b", "B"), ("B. dog", "B"), ("b. dog", None)),
        *(("(B)", None), ("", None), ("7", None)),
    ],
)
def test_scienceqa(answer, letter):
    assert scienceqa_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("A.", "A"), ("a", "A"), ("(A)", "("), ("The answer is A", "T")),
        *(("Dogs", "D"), ("", None)),
    ],
)
def test_seed_takes_the_first_character(answer, letter):
    assert first_character(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B.", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("Answer: D", "D"),
        ("A dog is at B", "A"),
        ("A or B", "A"),
        ("(A) or (C)", "C"),
        ("Both A and C", "C"),
        ("The correct answer is (C), not (A).", "A"),
        ("Because", "B"),
        ("b", None),
        ("None", None),
        ("", None),
        (40 * ".", None),
        ("'B'", "B"),
        ("it is D) or so", "D"),
        ("İİ the answer is (B) here", "B"),
    ],
)
def test_extractor(answer, letter):
    assert extracted_letter(answer) == letter


def test_extractor_knows_only_letters_that_are_offered():
    assert extracted_letter("D", "ABC") is None
    assert extracted_letter("I", "GHI") == "I"


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("2.", "2", 1),
        ("Two", "2", 0),
        ("(C)", "C", 1),
        ("c", "C", 0),
        ("YES", "Yes", 1),
        ("2", "2.", 0),
        ("B", " b ", 1),
        ("it is B or F", "B", 1),
    ],
)
def test_realworldqa(answer, reference, score):
    assert realworldqa_score(answer, reference) == score
