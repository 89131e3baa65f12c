"""Pictures and messages in, the logits of transformers out; needs no PyTorch.

`tests.parity.test_prompts` says that the golden file is what transformers makes.
"""

import numpy as np
import pytest

from tests.data.prompts import prompt_cases
from tests.tolerances import PARITY


@pytest.mark.parametrize(("name", "tile"), prompt_cases.cases())
def test_logits_are_those_of_transformers(name, tile):
    found = prompt_cases.our_logits(tile, prompt_cases.cases()[name, tile])
    golden = np.load(prompt_cases.GOLDEN)
    for row, logits in enumerate(found):
        expected = golden[f"{name} {tile} {row}"]
        logits = logits[:, prompt_cases.COLUMNS]
        np.testing.assert_allclose(logits, expected, **PARITY)
