"""What the page at / shows beside an answer: where layers looked, and its time.

POST /v1/visor/looks    a chat request and "answer", the text it was answered with:
    {"budget": "sa1:3", "rows": 12, "columns": 12, "tokens": ["7"], "layers": [
        {"layer": 2, "most": 0.31, "shown": 1.0, "maps": "AAEC..."}]}
POST /v1/visor/times    a chat request: its milliseconds, at its budget and dense
    {"budget": {"name": "sa1:3", "prefill": 1.2, "per_token": 0.4}, "dense": {...}}

Maps are bytes in base64, one per token, row and column, from 0 to 255, which is the
layer's `most`; `shown` is the share of its look that lies in them. What computes them
is given from outside, since it looks into the network; one at a time is computed,
beside the engine's own work.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

from visor_jax.data.prompts.request import Request
from visor_jax.inference.generation.generate import Latency
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.chat_request import ChatRequest
from visor_jax.inference.server.service import Service

Kind = TypeVar("Kind")
# Others are refused: each takes one of the places that questions need.
_MOST_WAITING = 4


class Looks(Protocol):
    """Where layers looked: (layers, tokens, rows, columns) maps from 0 to 255."""

    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    maps: np.ndarray
    most: tuple[float, ...]
    shown: tuple[float, ...]


# Of a request, the answer's text and the budget's name; ValueError if they cannot.
Look = Callable[[Request, str, str], Looks]
Time = Callable[[Request, str], Mapping[str, Latency]]


class LooksRequest(ChatRequest):
    """A chat request, and what it was answered with."""

    answer: str = Field(min_length=1)


def looks_routes(look: Look, time: Time) -> Callable[[Service], APIRouter]:
    """Returns what gives a service these routes."""

    def routes(service: Service) -> APIRouter:
        router, alone = APIRouter(), _Alone()

        @router.post("/v1/visor/looks")
        async def looks(asked: LooksRequest) -> JSONResponse:
            request, budget = await _read(service, asked)
            found = await alone.run(look, request, asked.answer, budget)
            return JSONResponse({"budget": budget, **_json(found)})

        @router.post("/v1/visor/times")
        async def times(asked: ChatRequest) -> JSONResponse:
            request, budget = await _read(service, asked)
            found = await alone.run(time, request, budget)
            said = {
                name: {"prefill": each.prefill, "per_token": each.per_token}
                for name, each in found.items()
            }
            said["budget"]["name"] = budget
            return JSONResponse(said)

        return router

    return routes


async def _read(service: Service, asked: ChatRequest) -> tuple[Request, str]:
    service.check_model(asked.model)
    request = await service.translator.request(asked)
    return request, str(request.options.budget)


class _Alone:
    """Runs one thing at a time in a thread, and lets a few wait."""

    def __init__(self) -> None:
        self._lock, self._inside = asyncio.Lock(), 0

    async def run(self, function: Callable[..., Kind], *arguments: Any) -> Kind:
        """Returns what the function returns. Raises ApiError for its ValueErrors."""
        if self._inside > _MOST_WAITING:
            why = "Others are looking where layers looked: try again later."
            raise ApiError(429, why, code="queue_full", headers={"retry-after": "2"})
        self._inside += 1
        try:
            async with self._lock:
                return await asyncio.to_thread(function, *arguments)
        except ValueError as error:
            raise ApiError(422, str(error)) from error
        finally:
            self._inside -= 1


def _json(found: Looks) -> dict[str, Any]:
    layers = [
        {
            "layer": layer,
            "most": found.most[number],
            "shown": found.shown[number],
            "maps": base64.b64encode(found.maps[number].tobytes()).decode(),
        }
        for number, layer in enumerate(found.layers)
    ]
    rows, columns = (int(count) for count in found.maps.shape[-2:])
    size = {"rows": rows, "columns": columns}
    return {**size, "tokens": list(found.tokens), "layers": layers}
