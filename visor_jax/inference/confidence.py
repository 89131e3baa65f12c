"""How sure a network was of an answer: one number of the answer's own tokens.

    tokens         4      <eos>
    probability    0.9    0.4          confidence  (0.9 * 0.4) ** (1/2) = 0.6

The probability of the whole answer, its end included, to the power of 1 / length: so
long answers are not unsure because they are long. It says how sure the network is, not
how often it is right: what to make of it is calibrated (`routing.cascade_calibration`).
It is of what was written, by the network's own logits: where tokens are drawn, a draw
that was unlikely is an answer that the network is unsure of.
"""

from collections.abc import Container, Sequence

import numpy as np
from jaxtyping import Float, Int

from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.stop_tokens import NOT_FINITE


def confidence(log_probs: Float[np.ndarray, "U"]) -> float:
    """Returns exp(mean log-probability) of an answer's tokens, in (0, 1].

    Raises:
      ValueError: for no token, or a number that is not finite.
    """
    if not len(log_probs) or not np.isfinite(log_probs).all():
        raise ValueError(
            f"log_probs={log_probs} are not the log-probabilities of an answer's "
            "tokens."
        )
    mean = np.mean(np.asarray(log_probs, np.float64))
    # A probability of 1 may be above it by its rounding, and none is 0.
    return float(np.clip(np.exp(mean), np.finfo(np.float64).tiny, 1.0))


def written_length(
    tokens: Int[np.ndarray, "U"], processor: Processor, stop: Sequence[str] = ()
) -> int:
    """Returns how many tokens an answer has, its end token or stop string included.

    tokens: with whatever follows them, up to the answer's limit.
    """
    ends: Container[int] = {*processor.eos_ids, NOT_FINITE}
    text = processor.answer_text(stop) if stop else None
    for index, token in enumerate(np.asarray(tokens).tolist()):
        if token in ends:
            return index + 1
        if text is not None:
            text.add(token)
            if text.is_stopped:
                return index + 1
    return len(tokens)
