"""One request's answer on its way from the engine's thread to the client's task.

    engine's thread   hear(progress) ... finish(answer)   or   fail(error)
                      tell_news([stream, ...])            once a step, of all streams
    event loop        batches(): [Piece], [Piece], ..., [Piece, Done]

Text is made of tokens on the engine's thread, which alone uses the tokenizer. The event
loop is woken once a step: a thread that is woken for every token takes the lock of the
interpreter from the other as often.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

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
        tells_pieces: bool = True,
        tells_tokens: bool = False,
        on_close: Callable[["AnswerStream"], None] = lambda stream: None,
    ) -> None:
        """Starts without tokens; made on the event loop that reads its events.

        Args:
          seconds: that the answer may take from now on. tells_pieces: whether they are
            told as they come; else all of them with the end. tells_tokens: whether
            pieces say which tokens were written.
          on_close: called where nobody waits for the rest any more.
        """
        self.request, self._processor = request, processor
        self.asked_at, self.due = time.perf_counter(), time.monotonic() + seconds
        self.first_at: float | None = None
        self.done_at: float | None = None
        self._tells_pieces, self._tells_tokens = tells_pieces, tells_tokens
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._batches: asyncio.Queue[list[Event | ApiError]] = asyncio.Queue()
        # On the engine's thread: what is not told yet.
        self._news: list[Event | ApiError] = []
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
        """Takes what is new of an answer; on the engine's thread."""
        self._news.append(self._piece(progress.tokens, progress.log_probs))

    def finish(self, answer: Answer) -> None:
        """Takes the end of the answer, or why there is none; on the engine's thread."""
        if answer.outcome is not Outcome.ANSWERED:
            status, code = _STATUS[answer.outcome], _CODES.get(answer.outcome)
            self.fail(ApiError(status, answer.error or "no answer", code=code))
            return
        last = self._piece(answer.tokens, answer.log_probs)
        last = dataclasses.replace(last, text=last.text + self._text.rest())
        has_ended = self._text.is_stopped or len(answer.tokens) <= answer.steps
        self.done_at = time.perf_counter()
        self._is_over = True
        self._news += [last, Done(answer, "stop" if has_ended else "length")]

    def fail(self, error: ApiError) -> None:
        """Takes that there will be no answer; on the engine's thread."""
        self._is_over = True
        self._news.append(error)

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Yields the answer: what is there at once, `Done` last.

        Raises:
          ApiError: where there is none, or no more.
        """
        while True:
            # The engine minds the time; this is for an engine that is no more.
            left = self.due - time.monotonic() + _LATENESS
            try:
                async with asyncio.timeout(left):
                    batch = await self._batches.get()
            except TimeoutError:
                code = _CODES[Outcome.EXPIRED]
                raise ApiError(504, "The engine is silent.", code=code) from None
            *before, last = batch
            if isinstance(last, ApiError):
                if before and self._tells_pieces:
                    yield before
                raise last
            yield batch
            if isinstance(last, Done):
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

    def _take_news(self) -> list[Event | ApiError]:
        """Returns what is to be told now, and forgets it."""
        if not (self._tells_pieces or self._is_over):
            return []
        news, self._news = self._news, []
        return news


def tell_news(streams: Iterable[AnswerStream]) -> None:
    """Tells what is new of these answers; on the engine's thread.

    Wakes an event loop once for all of its streams.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list] = {}
    for stream in streams:
        news = stream._take_news()
        if news:
            by_loop.setdefault(stream._loop, []).append((stream._batches, news))
    for loop, told in by_loop.items():
        # Where the loop is closed, nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_put_all, told)


def _put_all(told: list[tuple[asyncio.Queue, list]]) -> None:
    for batches, news in told:
        batches.put_nowait(news)
