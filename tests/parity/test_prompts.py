"""The golden logits of prompts with pictures are those of transformers."""

import numpy as np
import pytest

from tests.data.prompts import prompt_cases
from tests.parity.prompt_reference import reference, reference_answers
from tests.tolerances import PARITY

pytestmark = pytest.mark.parity


def test_golden_logits_are_those_of_transformers():
    golden, live = np.load(prompt_cases.GOLDEN), reference()
    assert set(golden) == set(live)
    for name, expected in live.items():
        np.testing.assert_allclose(golden[name], expected, **PARITY, err_msg=name)


def test_golden_answers_are_those_of_transformers():
    golden, live = np.load(prompt_cases.GOLDEN_ANSWERS), reference_answers()
    assert set(golden) == set(live)
    for name, expected in live.items():
        np.testing.assert_array_equal(golden[name], expected, err_msg=name)
