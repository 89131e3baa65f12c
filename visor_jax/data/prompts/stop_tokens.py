"""Which tokens end an answer, and what stands before them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# In an answer: the network's logits were not finite here, and the answer ends.
NOT_FINITE = -1
# One end token or several.
EndTokens = int | Sequence[int]


def end_tokens(eos_id: EndTokens) -> tuple[int, ...]:
    """Returns the end tokens, be they one or several."""
    return tuple(int(token) for token in np.atleast_1d(eos_id))


def cut_at_end(tokens: Int[np.ndarray, "B U"], eos_id: EndTokens) -> list[list[int]]:
    """Returns each row's tokens up to its end token, which is left out.

    Raises:
      ValueError: where logits were not finite (`NOT_FINITE`).
    """
    ends = set(end_tokens(eos_id))
    cut = []
    for row in tokens.tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        if NOT_FINITE in row[:stop]:
            raise ValueError("The logits of an answer are not finite.")
        cut.append(row[:stop])
    return cut
