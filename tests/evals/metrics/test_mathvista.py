"""MathVista by rules: what results are, and how they are compared."""

import pytest

from visor_jax.evals.metrics.mathvista import accuracy_rules, result_of


@pytest.mark.parametrize(
    ("answer", "reference", "kind", "choices", "precision", "score"),
    [
        ("B", "5", "choice", ("3", "5"), None, 1),
        ("5", "5", "choice", ("3", "5"), None, 1),
        ("(A)", "5", "choice", ("3", "5"), None, 0),
        ("sqare", "square", "choice", ("circle", "square"), None, 1),
        ("3.7", "3", "integer", (), None, 1),
        ("There are 12 of 14.", "14", "integer", (), None, 1),
        ("1.2", "1.20", "float", (), 2, 0),
        ("1.249", "1.2", "float", (), 1, 1),
        ("[1, 2]", "[1, 2]", "list", (), None, 1),
        ("It is [1, 2].", "[1, 2]", "list", (), None, 1),
        ("", "3", "integer", (), None, 0),
        ("none", "3", "float", (), 1, 0),
    ],
)
def test_scores(answer, reference, kind, choices, precision, score):
    assert accuracy_rules(answer, reference, kind, choices, precision) == score


def test_no_number_is_no_result():
    assert result_of("nan", "integer") is None
    assert result_of("9" * 400, "integer") is None
    assert result_of("", "choice", ("a",)) is None
