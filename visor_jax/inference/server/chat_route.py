"""`POST /v1/chat/completions`: one answer, whole or as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from visor_jax.inference.server.answer_stream import AnswerStream, Done, Event
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.chat_answer import AnswerForm, usage_of, visor_of
from visor_jax.inference.server.chat_request import ChatRequest
from visor_jax.inference.server.gate import leave_with, log_with
from visor_jax.inference.server.service import Service

Kind = TypeVar("Kind")
# What nobody reads.
_GONE = Response(status_code=499)
# FLOPs of more tokens are counted in a thread.
_FEW_STEPS = 64


def chat_routes(service: Service) -> APIRouter:
    """Returns the route that answers by a service."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(chat: ChatRequest, request: Request) -> Response:
        service.check_model(chat.model)
        asked = await service.translator.request(chat)
        says = {"tells_pieces": bool(chat.stream), "tells_tokens": bool(chat.logprobs)}
        stream = service.ask(asked, **says)
        leave_with(request.scope, stream.close)
        client = _Client(request)
        batches = stream.batches()
        # Errors have their status as long as nothing was sent.
        first = await client.unless_gone(anext(batches))
        if first is None:
            return _GONE
        form = AnswerForm(
            model=service.settings.name,
            asked_budget=str(asked.options.budget),
            fingerprint=service.fingerprint,
            logprobs=bool(chat.logprobs),
        )
        answering = _Answering(service, stream, form, request)
        if not chat.stream:
            return JSONResponse(await answering.whole(first))
        options = chat.stream_options
        include_usage = options is not None and options.include_usage
        parts = answering.parts(first, batches, include_usage=include_usage)
        return _Streamed(parts, client)

    return router


class _Client:
    """Who asks, as long as it is there."""

    def __init__(self, request: Request) -> None:
        """Waits from now on for it to go away; its body must have been read."""
        self._leaving = asyncio.ensure_future(_gone(request))
        leave_with(request.scope, self._leaving.cancel)

    async def unless_gone(self, work: Awaitable[Kind]) -> Kind | None:
        """Returns what comes of the work; None where the client goes away before."""
        working = asyncio.ensure_future(work)
        try:
            both = {working, self._leaving}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Streamed(EventSourceResponse):
    """Server-sent events until their client goes away, who is waited for once."""

    def __init__(self, parts: AsyncIterator[bytes], client: _Client) -> None:
        super().__init__(parts, headers={"cache-control": "no-store"})
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        del scope, receive
        await self._client.unless_gone(self.stream_response(send))


class _Answering:
    """An answer on its way to its client."""

    def __init__(
        self, service: Service, stream: AnswerStream, form: AnswerForm, request: Request
    ) -> None:
        self._service, self._stream, self._form = service, stream, form
        self._request = request

    async def whole(self, events: Sequence[Event]) -> dict[str, Any]:
        """Returns the JSON of the answer that all of these are."""
        *pieces, done = events
        assert isinstance(done, Done)
        visor = await self._end(done)
        return self._form.whole(pieces, done.answer, done.finish_reason, visor)

    async def parts(
        self,
        first: list[Event],
        batches: AsyncIterator[list[Event]],
        *,
        include_usage: bool,
    ) -> AsyncIterator[bytes]:
        """Yields the answer as it comes; an error in its midst is its last part.

        What is there at once is one part: every one goes through all layers to the
        client.
        """
        sent = [_sent(self._form.first_chunk())]
        try:
            async for batch in _all(first, batches):
                for event in batch:
                    if isinstance(event, Done):
                        end = event.answer, event.finish_reason, await self._end(event)
                        more = {"include_usage": include_usage}
                        chunks = self._form.last_chunks(*end, **more)
                        sent += [_sent(chunk) for chunk in chunks]
                        sent.append(format_sse_event(data_str="[DONE]"))
                    elif event.text or event.tokens:
                        sent.append(_sent(self._form.chunk(event)))
                if sent:
                    yield b"".join(sent)
                sent = []
        except ApiError as error:
            log_with(self._request.scope, error=error.status_code)
            yield b"".join([*sent, _sent(error.body())])

    async def _end(self, done: Done) -> dict[str, Any]:
        """Counts and logs an answer; returns what VISOR says of it."""
        what = done.answer, self._service.model.vlm, self._form.asked_budget
        # FLOPs are counted token by token; for a few that is done before a thread is
        # at it.
        if done.answer.steps <= _FEW_STEPS:
            visor = visor_of(*what)
        else:
            visor = await asyncio.to_thread(visor_of, *what)
        self._service.count(self._stream, done.answer, visor)
        usage = usage_of(done.answer)
        log_with(
            self._request.scope,
            id=self._form.id,
            budget=visor["budget"],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            first_token=f"{self._stream.seconds_to_first:.3f}",
            finish=done.finish_reason,
        )
        return visor


async def _all(
    first: list[Event], batches: AsyncIterator[list[Event]]
) -> AsyncIterator[list[Event]]:
    yield first
    async for batch in batches:
        yield batch


def _sent(body: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(body, ensure_ascii=False))
