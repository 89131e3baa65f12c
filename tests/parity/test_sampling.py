"""Our choice of tokens against the logits processors of `transformers`, run here."""

import numpy as np
import pytest

from tests.inference.test_sampling import processed
from tests.parity.sampling_reference import GOLDEN, SETTINGS, reference
from tests.tolerances import EXACT, PARITY

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logits_are_processed_alike(settings):
    expected = reference(settings)
    found = processed(settings)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found, expected, **PARITY)


def test_the_copy_is_what_transformers_gives():
    with np.load(GOLDEN) as copies:
        assert len(copies.files) == len(SETTINGS)
        for settings, name in zip(SETTINGS, copies.files, strict=True):
            np.testing.assert_allclose(copies[name], reference(settings), **EXACT)
