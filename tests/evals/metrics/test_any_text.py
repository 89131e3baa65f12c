"""Whatever an answer is, every metric gives a score or says that there is none."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from visor_jax.evals.metrics.anls import anls
from visor_jax.evals.metrics.exact_match import exact_match
from visor_jax.evals.metrics.mathvista import accuracy_rules
from visor_jax.evals.metrics.mmbench import static_reading
from visor_jax.evals.metrics.mmmu import choice_reading, open_score
from visor_jax.evals.metrics.ocrbench import holds_reference
from visor_jax.evals.metrics.option_letter import (
    ai2d_score,
    extracted_letter,
    first_character,
    realworldqa_score,
    scienceqa_letter,
)
from visor_jax.evals.metrics.relaxed_accuracy import relaxed_accuracy
from visor_jax.evals.metrics.vqa_accuracy import (
    vqa_accuracy,
    vqa_accuracy_official,
    vqa_accuracy_without_equals,
)
from visor_jax.evals.metrics.yes_no import (
    mme_reading,
    pope_reading,
    pope_reading_official,
)

OPTIONS = ("one", "two")
METRICS = {
    "anls": lambda said: anls(said, ["seven"]),
    "exact_match": lambda said: exact_match(said, ["seven"]),
    "relaxed_accuracy": lambda said: relaxed_accuracy(said, "7"),
    "vqa_accuracy": lambda said: vqa_accuracy(said, 10 * ["seven"]),
    "vqa_accuracy_official": lambda said: vqa_accuracy_official(
        said, 9 * ["a"] + ["b"]
    ),
    "without_equals": lambda said: vqa_accuracy_without_equals(said, 10 * ["seven"]),
    "ai2d": lambda said: ai2d_score(said, "B"),
    "scienceqa": lambda said: scienceqa_letter(said) == "B",
    "seed": lambda said: first_character(said) == "B",
    "extractor": lambda said: extracted_letter(said) == "B",
    "realworldqa": lambda said: realworldqa_score(said, "seven"),
    "pope": lambda said: pope_reading(said) == "yes",
    "pope_official": lambda said: pope_reading_official(said) == "other",
    "mme": lambda said: mme_reading(said) == "yes",
    "mmbench": lambda said: static_reading(said, OPTIONS) == "B",
    "mmmu_choice": lambda said: choice_reading(said, OPTIONS) == "B",
    "mmmu_open": lambda said: open_score(said, ["seven"]),
    "ocrbench": lambda said: holds_reference(said, ["seven"]),
    "mathvista_choice": lambda said: accuracy_rules(said, "7", "choice", OPTIONS),
    "mathvista_float": lambda said: accuracy_rules(said, "7.0", "float", (), 1),
}

# As lmms-eval's: a letter with a blank behind it is one, with a new line it is none.
SEE_BLANKS = ("mmmu_choice",)


@pytest.mark.parametrize("name", METRICS)
@given(answer=st.text(max_size=30))
@example(answer="")
@example(answer="B")
@example(answer=40 * ".")
@example(answer="İ ß ǆ \u0130 \ud800")
@example(answer="7" * 500)
@example(answer="1e999 nan -inf")
@example(answer="\n\t\x00")
def test_every_text_has_a_score_that_blanks_about_it_leave(name, answer):
    score = float(METRICS[name](answer))
    assert 0 <= score <= 1
    assert not math.isnan(score)
    if name not in SEE_BLANKS:
        assert METRICS[name](f" {answer}\n") == METRICS[name](answer)
