"""Which tokens end an answer."""

from collections.abc import Sequence

import numpy as np

# One end token or several.
EndTokens = int | Sequence[int]


def end_tokens(eos_id: EndTokens) -> tuple[int, ...]:
    """Returns the end tokens, be they one or several."""
    return tuple(int(token) for token in np.atleast_1d(eos_id))
