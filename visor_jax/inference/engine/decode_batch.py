"""The slots of one budget and bucket, and whose answers they hold."""

import dataclasses
from collections.abc import Container

import numpy as np
from jaxtyping import Int

from visor_jax.data.prompts.answer_text import AnswerText
from visor_jax.inference.engine.packed_prompts import PreparedRequest
from visor_jax.inference.generation.decode_step import DecodeState


@dataclasses.dataclass
class DecodeBatch:
    """The slots of one budget and bucket, and whose answers they hold.

    texts: what looks for the stop strings of a slot's request, None where it has none.
    looked_at: how many of its tokens have been.
    """

    slots: DecodeState
    requests: list[PreparedRequest | None]
    texts: list[AnswerText | None]
    looked_at: list[int]

    @property
    def is_busy(self) -> bool:
        return any(request is not None for request in self.requests)

    @property
    def draws(self) -> bool:
        """Whether some request draws its tokens, or has a repetition penalty."""
        return any(
            request is not None and not request.sampling.takes_likeliest
            for request in self.requests
        )

    @property
    def free(self) -> list[int]:
        return [i for i, request in enumerate(self.requests) if request is None]

    def put(self, slot: int, request: PreparedRequest, text: AnswerText | None) -> None:
        """Gives a free slot to a request."""
        self.requests[slot], self.texts[slot] = request, text
        self.looked_at[slot] = 0

    def length_at_stop(
        self, slot: int, tokens: Int[np.ndarray, "U"], ends: Container[int]
    ) -> int | None:
        """Returns how many tokens there are when a stop string is, None without one.

        Args:
          tokens: of the answer so far; those of earlier calls are not read again.
          ends: tokens that end an answer and are no text.
        """
        text = self.texts[slot]
        if text is None:
            return None
        for index in range(self.looked_at[slot], len(tokens)):
            if tokens[index] in ends:
                break
            text.add(int(tokens[index]))
            if text.is_stopped:
                return index + 1
        self.looked_at[slot] = len(tokens)
        return None
