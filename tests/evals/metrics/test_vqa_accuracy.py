"""VQA accuracy: what lmms-eval 0.7.3 computes, by hand for every count of agreeing."""

import itertools
import math

import pytest

from visor_jax.evals.metrics.vqa_accuracy import (
    vqa_accuracy,
    vqa_accuracy_official,
    vqa_accuracy_without_equals,
)
from visor_jax.evals.metrics.vqa_words import _CONTRACTIONS, processed


@pytest.mark.parametrize("parts_possessives", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat.", "cat"),
        ("1,000 dollars!", "1000 dollars"),
        ("U.S.A.", "usa"),
        ("ten-fold", "10 fold"),
        ("red/blue", "red blue"),
        ("2.5", "2.5"),
        ("A", ""),
        ("none", "0"),
        ("a, b", "b"),
        ("dont", "don't"),
        ("shouldn'tve", "shouldn't've"),
        ("red\n\tblue", "red blue"),
        # A flag was passed where a count is asked for.
        (40 * ".", 8 * "."),
        ("Grün", "grün"),
    ],
)
def test_words_are_made_comparable(text, expected, parts_possessives):
    assert processed(text, parts_possessives=parts_possessives) == expected


def test_possessives_part_in_two_of_three_benchmarks():
    assert processed("it's", parts_possessives=False) == "it's"
    assert processed("it's", parts_possessives=True) == "it 's"


def test_all_spellings_of_the_official_list():
    # It has 120, of which two say what they are spelled like.
    assert len(_CONTRACTIONS) == 118
    for spelling, word in _CONTRACTIONS.items():
        assert spelling != word
        assert spelling.replace("'", "") == word.replace("'", "")
    # The one that loses its apostrophe.
    assert [k for k in _CONTRACTIONS if "'" in k and "'" not in _CONTRACTIONS[k]] == [
        "somebody'd"
    ]


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("red", 1 * ["red"] + 9 * ["blue"], 0.3),
        ("red", 4 * ["red"] + 6 * ["blue"], 1.0),
        ("The red.", 10 * ["red"], 1.0),
        ("2", 10 * ["two"], 1.0),
        ("mothers", 10 * ["mother's"], 0.0),
    ],
)
@pytest.mark.parametrize("parts_possessives", [True, False])
def test_scores_as_the_published_harness(answer, references, score, parts_possessives):
    found = vqa_accuracy(answer, references, parts_possessives=parts_possessives)
    assert found == score


def test_every_count_of_agreeing_annotators():
    for count, expected in enumerate([0, 0.3, 0.6, 0.9] + 7 * [1.0]):
        references = count * ["red"] + (10 - count) * ["blue"]
        assert vqa_accuracy("red", references) == expected
        # The definition, annotator by annotator.
        others = itertools.combinations(references, 9)
        slow = sum(min(1, each.count("red") / 3) for each in others) / 10
        assert slow == pytest.approx(expected)


def test_fewer_annotators_and_none():
    assert vqa_accuracy("red", ["red"]) == 0.0
    assert vqa_accuracy("red", 5 * ["red"]) == 1.0
    assert math.isnan(vqa_accuracy("red", []))
    assert math.isnan(vqa_accuracy_official("red", []))
    assert math.isnan(vqa_accuracy_without_equals("red", []))


def test_rules_beside_it():
    assert vqa_accuracy_official("2", 10 * ["two"]) == 0.0
    assert vqa_accuracy_official("2", 9 * ["two"] + ["three"]) == 1.0
    four = 4 * ["red"] + 6 * ["blue"]
    assert vqa_accuracy_without_equals("red", four) == pytest.approx(0.6)
    assert vqa_accuracy_without_equals("green", four) == 0.0
