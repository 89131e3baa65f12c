"""Reads the answers of packed questions off the most likely next tokens.

A row holds questions and their right answers, so every place of an answer sees the
right tokens before it. Up to the first wrong token this is what greedy decoding sees as
well, so that it writes the same, the wrong token included; what it would write after
that is not known. An answer without a wrong token is what greedy decoding writes.

    words      bar  B  :  4            targets    B  :  4  <eos>
    loss_mask  0    0  1  1            predicted  1  2  4  <eos>   answer: 4
                                                  1  2  7  <eos>   answer: 7 ...
                                                  1  2  4  :       answer: 4 : ...
"""

from collections.abc import Collection

import numpy as np
from jaxtyping import Int

from visor_jax.policy.packed_answers import PackedAnswers


def known_tokens(
    answers: PackedAnswers, predicted: Int[np.ndarray, "B T"], ends: Collection[int]
) -> list[tuple[int, ...]]:
    """Returns the tokens of every answer as far as they are known, without its end.

    Row by row, segments ascending.

    Args:
      predicted: the most likely next token at every place. ends: tokens that end an
        answer.
    """
    found = np.take_along_axis(predicted, answers.indices, axis=1)
    tokens, exists = answers.by_answer(found)
    targets, _ = answers.by_answer(answers.targets)
    wrong = (tokens != targets) & exists
    # Known are those with nothing wrong before them.
    known = (np.cumsum(wrong, axis=1) - wrong == 0) & exists
    ended = np.cumsum(np.isin(tokens, list(ends)), axis=1) > 0
    lengths = (known & ~ended).sum(axis=1).tolist()
    return [
        tuple(row[:length])
        for row, length in zip(tokens.tolist(), lengths, strict=True)
    ]
