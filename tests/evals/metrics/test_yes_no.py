"""Yes and no: POPE by two rules on the same answers, MME's first four characters."""

import pytest

from visor_jax.evals.metrics.yes_no import (
    YesNoCounts,
    mme_reading,
    pope_reading,
    pope_reading_official,
)

ASKED = [
    ("yes", "yes"),
    ("yes.", "yes"),
    ("No", "no"),
    ("yes", "no"),
    ("Yes, there is", "yes"),
    ("no", "yes"),
]


def _counts(reading):
    return YesNoCounts.of((reading(said), right) for said, right in ASKED)


def test_pope_as_the_published_harness():
    found = _counts(pope_reading)
    assert found.accuracy == 2 / 6
    assert (found.precision, found.recall, found.f1) == (1 / 2, 1 / 2, 1 / 2)
    # Of answers. Theirs is of references: 4 of 6, whatever is answered.
    assert found.yes_ratio == 2 / 6


def test_pope_by_its_own_rule():
    found = _counts(pope_reading_official)
    assert found.accuracy == 4 / 6
    assert (found.precision, found.recall, found.f1) == (3 / 4, 3 / 4, 3 / 4)
    assert found.yes_ratio == 4 / 6


def test_nothing_said_yes_divides_by_nothing():
    found = YesNoCounts.of([("no", "no")])
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)
    assert YesNoCounts.of([]).accuracy == 0


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        *(("not sure", "no"), ("know", "no"), ("Unknown", "other")),
        *(("The answer is yes", "other"), ("Yes.", "yes"), ("y", "yes")),
        *(("N", "no"), ("x", "other"), ("", "other"), (40 * ".", "other")),
    ],
)
def test_mme_reads_four_characters(answer, reading):
    assert mme_reading(answer) == reading
