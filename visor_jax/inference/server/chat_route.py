"""`POST /v1/chat/completions`: one answer, whole or as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from visor_jax.inference.server.answer_stream import AnswerStream, Done, Event, Piece
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.chat_answer import AnswerForm, usage_of, visor_of
from visor_jax.inference.server.chat_request import ChatRequest
from visor_jax.inference.server.gate import leave_with, log_with
from visor_jax.inference.server.service import Service

Kind = TypeVar("Kind")
# What nobody reads.
_GONE = Response(status_code=499)


def chat_routes(service: Service) -> APIRouter:
    """Returns the route that answers by a service."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(chat: ChatRequest, request: Request) -> Response:
        service.check_model(chat.model)
        asked = await service.translator.request(chat)
        stream = service.ask(asked, tells_tokens=bool(chat.logprobs))
        leave_with(request.scope, stream.close)
        events = stream.events()
        # Errors have their status as long as nothing was sent.
        first = await _unless_gone(request, anext(events))
        if first is None:
            return _GONE
        form = AnswerForm(
            model=service.settings.name,
            asked_budget=str(asked.options.budget),
            fingerprint=service.fingerprint,
            logprobs=bool(chat.logprobs),
        )
        answering = _Answering(service, stream, form, request)
        if chat.stream:
            options = chat.stream_options
            include_usage = options is not None and options.include_usage
            parts = answering.parts(first, events, include_usage=include_usage)
            return EventSourceResponse(parts, headers={"cache-control": "no-store"})
        found = await _unless_gone(request, answering.whole(first, events))
        return _GONE if found is None else JSONResponse(found)

    return router


class _Answering:
    """An answer on its way to its client."""

    def __init__(
        self, service: Service, stream: AnswerStream, form: AnswerForm, request: Request
    ) -> None:
        self._service, self._stream, self._form = service, stream, form
        self._request = request

    async def whole(self, first: Event, events: AsyncIterator[Event]) -> dict[str, Any]:
        """Returns the JSON of the answer, once it is there."""
        pieces, done = [], None
        async for event in _all(first, events):
            if isinstance(event, Piece):
                pieces.append(event)
            else:
                done = event
        assert done is not None
        visor = await self._end(done)
        return self._form.whole(pieces, done.answer, done.finish_reason, visor)

    async def parts(
        self, first: Event, events: AsyncIterator[Event], *, include_usage: bool
    ) -> AsyncIterator[bytes]:
        """Yields the answer as it comes; an error in its midst is its last part."""
        yield _sent(self._form.first_chunk())
        try:
            async for event in _all(first, events):
                if isinstance(event, Done):
                    end = event.answer, event.finish_reason, await self._end(event)
                    chunks = self._form.last_chunks(*end, include_usage=include_usage)
                    for chunk in chunks:
                        yield _sent(chunk)
                elif event.text or event.tokens:
                    yield _sent(self._form.chunk(event))
        except ApiError as error:
            log_with(self._request.scope, error=error.status_code)
            yield _sent(error.body())
            return
        yield format_sse_event(data_str="[DONE]")

    async def _end(self, done: Done) -> dict[str, Any]:
        """Counts and logs an answer; returns what VISOR says of it."""
        what = done.answer, self._service.model.vlm, self._form.asked_budget
        # FLOPs are counted token by token, which may take a while.
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


async def _all(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in events:
        yield event


async def _unless_gone(request: Request, work: Awaitable[Kind]) -> Kind | None:
    """Returns what comes of the work; None where the client goes away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()


def _sent(body: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(body, ensure_ascii=False))
