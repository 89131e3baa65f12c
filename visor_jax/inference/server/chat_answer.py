"""What a client gets: the JSON of a chat completion, whole or in chunks.

Beside OpenAI's fields every answer has `visor`: the budget that was asked for and the
one that it was answered in, FLOPs, and what they are of the dense network's.
"""

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

from visor_jax.inference.answers import Answer
from visor_jax.inference.files.answer_file import first_look_of
from visor_jax.inference.files.answer_flops import dense_flops_of, flops_of
from visor_jax.inference.server.answer_stream import Piece, WrittenToken
from visor_jax.models.vlm import VLM

_UNFINISHED = "\ufffd"
Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """What all parts of one answer say.

    asked_budget: as the client or the server said it. fingerprint: of the network.
    """

    model: str
    asked_budget: str
    fingerprint: str
    logprobs: bool
    id: str = dataclasses.field(
        default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}"
    )
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def whole(
        self, pieces: Sequence[Piece], answer: Answer, reason: str, visor: Json
    ) -> Json:
        """Returns the answer in one."""
        text = "".join(piece.text for piece in pieces)
        message = {"role": "assistant", "content": text, "refusal": None}
        tokens = [token for piece in pieces for token in piece.tokens]
        choice = self._choice(tokens, reason, message=message)
        extras = {"usage": usage_of(answer), "visor": visor}
        return self._of("chat.completion", [choice], **extras)

    def first_chunk(self) -> Json:
        """Returns the chunk before the first text."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk([self._choice([], None, delta=delta)])

    def chunk(self, piece: Piece) -> Json:
        """Returns the chunk of a piece."""
        delta = {"content": piece.text}
        return self._chunk([self._choice(piece.tokens, None, delta=delta)])

    def last_chunks(
        self, answer: Answer, reason: str, visor: Json, *, include_usage: bool
    ) -> list[Json]:
        """Returns the chunks behind the last text.

        include_usage: whether the usage has a chunk of its own; else it is in the last.
        """
        usage, choice = usage_of(answer), self._choice([], reason, delta={})
        said = None if include_usage else usage
        chunks = [self._chunk([choice], usage=said, visor=visor)]
        if include_usage:
            chunks.append(self._chunk([], usage=usage))
        return chunks

    def _chunk(self, choices: list[Json], **extras: Any) -> Json:
        return self._of("chat.completion.chunk", choices, **extras)

    def _of(self, kind: str, choices: list[Json], **extras: Any) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **extras,
        }

    def _choice(
        self, tokens: Sequence[WrittenToken], reason: str | None, **said: Any
    ) -> Json:
        told = [_log_prob(token) for token in tokens] if self.logprobs else None
        log_probs = None if told is None else {"content": told, "refusal": None}
        return {"index": 0, **said, "logprobs": log_probs, "finish_reason": reason}


def _log_prob(token: WrittenToken) -> Json:
    # Of a part of a character nobody knows the bytes here.
    whole = _UNFINISHED not in token.text
    told = list(token.text.encode()) if whole else None
    said = {"token": token.text, "logprob": token.log_prob, "bytes": told}
    return {**said, "top_logprobs": []}


def usage_of(answer: Answer) -> Json:
    """Returns the tokens of a prompt and its answer, the end token included."""
    prompt, written = answer.text_tokens + answer.image_tokens, answer.steps + 1
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {
            "text_tokens": answer.text_tokens,
            "image_tokens": answer.image_tokens,
        },
    }


def visor_of(answer: Answer, model: VLM, asked_budget: str) -> Json:
    """Returns what VISOR says of an answer; see `.docs/serving.md`."""
    spent, dense = flops_of(answer, model), dense_flops_of(answer, model)
    total, dense_total = sum(spent.values()), sum(dense.values())
    assert answer.budget is not None
    said = {
        "asked_budget": asked_budget,
        "budget": answer.budget.name,
        "self_layers_on": len(answer.budget.self_layers),
        "flops": {**spent, "total": total},
        "dense_flops": {**dense, "total": dense_total},
        "saving": dense_total / total,
        "image_reused": bool(answer.crops) and not answer.encoded,
        "confidence": answer.confidence,
        "seconds": answer.seconds,
    }
    if answer.looked_at is not None:
        said["looked_at"] = answer.looked_at
    said |= first_look_of(answer)
    if answer.looks:
        said["looks"] = [
            {"budget": look.budget.name, "confidence": look.confidence}
            for look in answer.looks
        ]
    return said
