"""OCRBench: what lmms-eval 0.7.3 computes."""

import pytest

from visor_jax.evals.metrics.ocrbench import holds_reference


@pytest.mark.parametrize(
    ("answer", "reference", "dataset", "score"),
    [
        ("The sign says STOP", "stop", "", 1),
        ("St op", "stop", "", 0),
        ("10", "1", "", 1),
        ("ＳＴＯＰ　it", "stop it", "", 1),
        ("one\ntwo", "one two", "", 1),
        (r"\frac {1} {2}", r"\frac{1}{2}", "HME100k", 1),
        ("X ^ 2", "x^2", "HME100k", 0),
        ("x ^\n2", "x^2", "HME100k", 1),
        ("ｘ^2", "x^2", "HME100k", 0),
        ("", "stop", "", 0),
    ],
)
def test_scores_as_the_published_harness(answer, reference, dataset, score):
    assert holds_reference(answer, [reference], dataset) == score
    assert holds_reference(answer, ["never there", reference], dataset) == score
