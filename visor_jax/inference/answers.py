"""What the engine hands back."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from visor_jax.budget import Budget
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.engine.packed_prompts import PreparedRequest
from visor_jax.inference.options import Attempt


class Outcome(enum.Enum):
    """What became of a request: why there is no answer, where there is none."""

    ANSWERED = "answered"
    REFUSED = "refused"  # what it asks cannot be answered
    FAILED = "failed"  # the network could not answer it
    EXPIRED = "expired"  # its time was up


class Progress(NamedTuple):
    """What has been written of an answer so far, from its first token on.

    number: of the request. log_probs: of the tokens, () where the engine asks for none.
    """

    number: int
    budget: Budget
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


Listener = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    number: of the request, in the order of asking. text, tokens: the answer, without
    end token; the text ends before a stop string, whose tokens are the last ones.
    log_probs: of the tokens, () where the engine asks for none. steps: of decoding,
    after the first token. error: what is wrong with the request, None if it was
    answered. outcome: the same by kind. text_tokens, image_tokens, crops: of the
    prompt. image_slots: image tokens that it was padded to, 0 if nobody says. encoded:
    whether its image went through the tower for it; else it was at hand. at_hand: the
    decoder's layers in which the image's keys and values were at hand, too, so that
    only text went through them.
    seconds: from reading the request to its last token, without those in which programs
    were compiled.
    confidence: how sure the network was (`inference.confidence`); None where the engine
    does not ask. looks: of a cascade of budgets; budget, confidence, steps and at_hand
    are those of the last one, which is the answer.
    looked_at: which crops of its image were shown (`Looking.report`); None for all.
    first_look: the unsure answer to the base view before it, which was paid for too.
    """

    number: int
    request: Request
    text: str = ""
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    steps: int = 0
    budget: Budget | None = None
    error: str | None = None
    outcome: Outcome = Outcome.ANSWERED
    text_tokens: int = 0
    image_tokens: int = 0
    image_slots: int = 0
    crops: int = 0
    encoded: bool = False
    at_hand: tuple[int, ...] = ()
    seconds: float = 0.0
    confidence: float | None = None
    looks: tuple[Attempt, ...] = ()
    looked_at: dict[str, Any] | None = None
    first_look: "Answer | None" = None

    @classmethod
    def refused(
        cls,
        number: int,
        request: Request,
        reason: str,
        outcome: Outcome = Outcome.REFUSED,
        *,
        seconds: float,
    ) -> "Answer":
        """Returns the answer to a request that cannot be answered."""
        why = {"error": reason, "outcome": outcome}
        return cls(number=number, request=request, seconds=seconds, **why)

    @classmethod
    def failed(
        cls, request: PreparedRequest, budget: Budget, reason: str, seconds: float
    ) -> "Answer":
        """Returns the answer to a request that the network could not answer."""
        return cls(
            number=request.number,
            request=request.request,
            budget=budget,
            error=reason,
            outcome=Outcome.FAILED,
            seconds=seconds,
        )

    @classmethod
    def of(
        cls,
        request: PreparedRequest,
        written: Int[np.ndarray, "U"],
        processor: Processor,
        look: Attempt,
        *,
        looks: tuple[Attempt, ...],
        log_probs: Sequence[float] = (),
        encoded: bool,
        seconds: float,
        first_look: "Answer | None" = None,
    ) -> "Answer":
        """Returns the answer that these tokens are, end token included, if any.

        look: that they are of. looks: of a cascade. log_probs: of the tokens first.
        """
        (tokens,) = cut_at_end(written[None], processor.eos_ids)
        text = processor.text_before(tokens, request.request.options.stop)
        return cls(
            number=request.number,
            request=request.request,
            text=text,
            tokens=tuple(tokens),
            log_probs=tuple(log_probs[: len(tokens)]),
            steps=look.steps,
            budget=look.budget,
            text_tokens=request.sample.num_text_tokens,
            image_tokens=request.sample.num_image_tokens,
            image_slots=processor.buckets.choose(request.sample).image_tokens,
            crops=request.sample.num_crops,
            encoded=encoded,
            at_hand=look.at_hand,
            seconds=seconds,
            confidence=look.confidence,
            looks=looks,
            looked_at=request.looked_at,
            first_look=first_look,
        )
