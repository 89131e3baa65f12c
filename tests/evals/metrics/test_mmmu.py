"""MMMU: what lmms-eval 0.7.3 computes, but for the option drawn by chance."""

import pytest

from visor_jax.evals.metrics.mmmu import (
    choice_reading,
    expected_by_chance,
    open_reading,
    open_score,
)

OPTIONS = ("a red one", "a blue one", "a green one")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("The answer is (C) since (A) fails", "A"),
        ("it is C or B here", "B"),
        ("b", None),
        ("", None),
        ("it must have been a blue one", "B"),
        ("a blue one", None),
    ],
)
def test_choices(answer, letter):
    assert choice_reading(answer, OPTIONS) == letter


def test_an_unread_answer_by_chance():
    assert expected_by_chance(None, "B", OPTIONS) == 1 / 3
    assert expected_by_chance("B", "B", OPTIONS) == 1
    assert expected_by_chance("A", "B", OPTIONS) == 0


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The answer is 12.", "12", 1),
        ("1,200 dollars", "1200", 1),
        ("x = 3.456", "3.46", 1),
        ("-5", "5", 0),
        ("112", "12", 0),
        ("The result is blue whale", "whale", 1),
        ("", "12", 0),
        ("an x is there", "x", 0),
        ("it is x there", "x", 1),
    ],
)
def test_open_answers(answer, reference, score):
    assert open_score(answer, [reference]) == score


def test_the_shortest_tail_of_every_line():
    found = open_reading("So the area is 5 m\nthe final result = 1e3")
    # The exponent, too, is taken for a number of its own.
    assert set(found) == {"5 m", 5.0, 1000.0, 3.0}
