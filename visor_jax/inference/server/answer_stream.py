"""One request's answer on its way from the engine's thread to the client's task.

    engine's thread   hear(progress) ... finish(answer)   or   fail(error)
    event loop        events(): Piece, Piece, ..., Done

Text is made of tokens on the engine's thread, which alone uses the tokenizer.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence

from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.inference.answers import Answer, Outcome, Progress
from visor_jax.inference.server.api_errors import ApiError

_STATUS = {Outcome.REFUSED: 422, Outcome.FAILED: 500, Outcome.EXPIRED: 504}
# Seconds that the engine may be late, in the middle of compiling say.
_LATENESS = 60.0
_CODES = {Outcome.EXPIRED: "deadline_exceeded"}


@dataclasses.dataclass(frozen=True)
class WrittenToken:
    """A token of an answer, as log-probabilities are told. log_prob: if known."""

    text: str
    log_prob: float | None


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text of an answer that is known now, and the tokens written since the last."""

    text: str
    tokens: tuple[WrittenToken, ...]


@dataclasses.dataclass(frozen=True)
class Done:
    """The end of an answer. finish_reason: "stop" or "length"."""

    answer: Answer
    finish_reason: str


Event = Piece | Done


class AnswerStream:
    """The answer to a request while it is written.

    asked_at, first_at, done_at: by `time.perf_counter`; None before it is so far.
    """

    def __init__(
        self,
        request: Request,
        processor: Processor,
        *,
        seconds: float,
        tells_tokens: bool = False,
        on_close: Callable[["AnswerStream"], None] = lambda stream: None,
    ) -> None:
        """Starts without tokens; made on the event loop that reads its events.

        Args:
          seconds: that the answer may take from now on. tells_tokens: whether pieces
            say which tokens were written.
          on_close: called where nobody waits for the rest any more.
        """
        self.request, self._processor = request, processor
        self.asked_at, self.due = time.perf_counter(), time.monotonic() + seconds
        self.first_at: float | None = None
        self.done_at: float | None = None
        self._tells_tokens, self._on_close = tells_tokens, on_close
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        self._text = processor.answer_text(request.options.stop)
        self._seen = 0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether its end has been told."""
        return self._is_over

    @property
    def seconds(self) -> float:
        """From its asking to its last token."""
        assert self.done_at is not None
        return self.done_at - self.asked_at

    @property
    def seconds_to_first(self) -> float:
        """From its asking to its first token; an empty answer has its end alone."""
        first = self.done_at if self.first_at is None else self.first_at
        assert first is not None
        return first - self.asked_at

    def hear(self, progress: Progress) -> None:
        """Tells what is new of an answer; on the engine's thread."""
        self._tell(self._piece(progress.tokens, progress.log_probs))

    def finish(self, answer: Answer) -> None:
        """Tells the end of the answer, or why there is none; on the engine's thread."""
        if answer.outcome is not Outcome.ANSWERED:
            status, code = _STATUS[answer.outcome], _CODES.get(answer.outcome)
            self.fail(ApiError(status, answer.error or "no answer", code=code))
            return
        last = self._piece(answer.tokens, answer.log_probs)
        last = dataclasses.replace(last, text=last.text + self._text.rest())
        has_ended = self._text.is_stopped or len(answer.tokens) <= answer.steps
        self.done_at = time.perf_counter()
        self._is_over = True
        self._tell(last)
        self._tell(Done(answer, "stop" if has_ended else "length"))

    def fail(self, error: ApiError) -> None:
        """Tells that there will be no answer; from any thread."""
        self._is_over = True
        self._tell(error)

    async def events(self) -> AsyncIterator[Event]:
        """Yields the answer. Raises `ApiError` where there is none, or no more."""
        while True:
            # The engine minds the time; this is for an engine that is no more.
            left = self.due - time.monotonic() + _LATENESS
            try:
                async with asyncio.timeout(left):
                    event = await self._events.get()
            except TimeoutError:
                code = _CODES[Outcome.EXPIRED]
                raise ApiError(504, "The engine is silent.", code=code) from None
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Done):
                return

    def close(self) -> None:
        """Has the engine forget what nobody waits for; nothing after the end."""
        if not self._is_over:
            self._on_close(self)

    def _piece(self, tokens: Sequence[int], log_probs: Sequence[float]) -> Piece:
        """Returns what is new of the tokens so far."""
        new = range(self._seen, len(tokens))
        self._seen = len(tokens)
        if new and self.first_at is None:
            self.first_at = time.perf_counter()
        texts = []
        for index in new:
            if not self._text.is_stopped:
                texts.append(self._text.add(tokens[index]) or "")
        written = []
        if self._tells_tokens:
            for index in new:
                log_prob = log_probs[index] if index < len(log_probs) else None
                text = self._processor.text([tokens[index]])
                written.append(WrittenToken(text, log_prob))
        return Piece("".join(texts), tuple(written))

    def _tell(self, event: Event | ApiError) -> None:
        # Where the loop is closed, nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
