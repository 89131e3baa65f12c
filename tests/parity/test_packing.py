"""The golden file of packed features is what transformers makes here and now."""

import numpy as np
import pytest

from tests.data.pages import packing_cases
from tests.parity.packing_reference import reference
from tests.tolerances import PARITY

pytestmark = pytest.mark.parity


def test_golden_features_are_those_of_transformers():
    golden, live = np.load(packing_cases.GOLDEN), reference()
    assert set(golden) == set(live)
    for name, expected in live.items():
        np.testing.assert_allclose(golden[name], expected, **PARITY, err_msg=name)
