"""How far two networks are apart: in the logits of a prompt and in their answers."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a network makes of a prompt: logits of its T text tokens, greedy tokens."""

    logits: Float[np.ndarray, "T W"]
    tokens: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two networks are apart on one prompt.

    max_abs: largest difference of a logit. max_kl: largest divergence of a token's
    distribution from the reference's, in nats. top1: share of tokens whose likeliest
    successor is the same. greedy: whether the greedy answers are the same.
    """

    name: str
    tokens: int
    max_abs: float
    max_kl: float
    top1: float
    greedy: bool

    def holds(self, *, tolerance: float, max_kl: float) -> bool:
        """Returns whether the networks agree; not a number never does."""
        close = self.max_abs <= tolerance and self.max_kl <= max_kl
        return close and self.top1 == 1.0 and self.greedy

    def line(self, *, holds: bool) -> str:
        """Returns the comparison in words."""
        return (
            f"{'agree ' if holds else 'DIFFER'} {self.name}: max |logit difference| "
            f"{self.max_abs:.2e}, max KL {self.max_kl:.2e}, top-1 "
            f"{100 * self.top1:.1f} % of {self.tokens} tokens, greedy answer "
            f"{'the same' if self.greedy else 'another'}"
        )


def compare(name: str, ours: Answer, reference: Answer) -> Comparison:
    """Returns how far `ours` is from the reference on one prompt."""
    log_p, log_q = _log_softmax(reference.logits), _log_softmax(ours.logits)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    same = ours.logits.argmax(axis=-1) == reference.logits.argmax(axis=-1)
    return Comparison(
        name=name,
        tokens=len(same),
        max_abs=float(np.abs(ours.logits - reference.logits).max()),
        max_kl=float(divergence.max()),
        top1=float(same.mean()),
        greedy=ours.tokens == reference.tokens,
    )


def _log_softmax(logits: Float[np.ndarray, "T W"]) -> Float[np.ndarray, "T W"]:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
