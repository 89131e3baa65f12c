"""MMBench: readings without a judge, and circles."""

import pytest

from visor_jax.evals.metrics.mmbench import (
    circle_is_right,
    option_reading,
    static_reading,
)

OPTIONS = ("a cat", "two dogs", "a car")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *((said, "B") for said in ("B", "B.", "(B)", "B. two dogs", "two dogs")),
        ("A cat is there", "A"),
        ("A or B", None),
        ("**B**", None),
        ("A man with B in hand", None),
        ("", None),
    ],
)
def test_readings_as_the_published_harness(answer, letter):
    assert option_reading(answer, OPTIONS) == letter


def test_what_is_unread_goes_to_the_extractor():
    assert static_reading("A or B", OPTIONS) == "A"
    assert static_reading("two dogs", OPTIONS) == "B"
    assert static_reading("no idea", OPTIONS) is None
    # There is no option D.
    assert static_reading("it is B or D", OPTIONS) == "B"


@pytest.mark.parametrize(
    ("answers", "score"),
    [(["A", "B"], 1), (["A", "A"], 0), (["two dogs", "two dogs"], 1)],
)
def test_a_circle_is_right_if_all_its_rows_are(answers, score):
    rows = [("A", ("two dogs", "a car")), ("B", ("a car", "two dogs"))]
    right = [
        option_reading(said, options) == letter
        for said, (letter, options) in zip(answers, rows, strict=True)
    ]
    assert circle_is_right(right) == score
