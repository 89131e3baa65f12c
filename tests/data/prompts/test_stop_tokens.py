"""End tokens: one or several, and what stands before the first of them."""

import numpy as np

from visor_jax.data.prompts.stop_tokens import cut_at_end

TOKENS = np.array([[7, 4, 1, 0, 0], [5, 5, 2, 8, 1], [6, 6, 6, 6, 6]])


def test_answers_are_cut_before_the_end_token():
    assert cut_at_end(TOKENS, 1) == [[7, 4], [5, 5, 2, 8], [6] * 5]


def test_the_first_of_several_end_tokens_ends_an_answer():
    assert cut_at_end(TOKENS, (1, 2)) == [[7, 4], [5, 5], [6] * 5]
    assert cut_at_end(TOKENS, ()) == TOKENS.tolist()
    assert cut_at_end(TOKENS, (6, -1)) == [*TOKENS[:2].tolist(), []]
