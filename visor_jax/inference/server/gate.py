"""What every request passes: the key, the number of requests, sizes and times.

    key            401 before anything is read
    readiness      503, and 429 where as many as allowed are held, both before the body
    body           413 and 408 while it comes; whatever is refused is read no further
    answer         a client that does not read what it is sent is cut off
    afterwards     its place is free, its answer is forgotten, one line is logged

Bytes of a body are counted by FastAPI (`max_body_size`).
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visor_jax.inference.server.api_errors import ApiError, too_large
from visor_jax.inference.server.engine_thread import EngineThread, not_ready
from visor_jax.inference.server.metrics import Metrics
from visor_jax.inference.server.server_settings import ServerSettings

_logger = logging.getLogger(__name__)
# Open without a key.
_OPEN = ("/", "/health")
_QUIET = ("/health", "/metrics")
# What is left of a body that is refused is thrown away for so long, so that its client
# comes to read why.
_DRAIN_SECONDS = 2.0
# Where a request keeps what is to be done when it has gone, and what is logged of it.
EXIT, LOG = "visor.exit", "visor.log"


class Gate:
    """The ASGI app around the whole one."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        thread: EngineThread,
        metrics: Metrics,
    ) -> None:
        """Takes what is behind it. held: how many requests are inside."""
        self._app, self._settings = app, settings
        self._thread, self._metrics = thread, metrics
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(self._settings, receive, send)
        scope[LOG] = {}
        began = time.perf_counter()
        try:
            with contextlib.ExitStack() as scope[EXIT]:
                try:
                    self._check(scope)
                    scope[EXIT].enter_context(self._place(scope))
                except ApiError as error:
                    response = error.response()
                    await response(scope, passage.receive, passage.send)
                    return
                await self._app(scope, passage.receive, passage.send)
        finally:
            self._log(scope, passage.status, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self._settings
        if settings.api_key is not None and scope["path"] not in _OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            # As bytes: texts that are no ASCII cannot be compared.
            same = secrets.compare_digest(given.encode(), settings.api_key.encode())
            if kind.lower() != "bearer" or not same:
                why = (
                    "The API key is missing or another one: send it as a bearer token."
                )
                raise ApiError(
                    401,
                    why,
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > settings.max_body_bytes:
            raise too_large()

    @contextlib.contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """Holds a place for a request that the engine is to answer."""
        if scope["method"] != "POST":
            yield
            return
        if not self._thread.is_ready:
            raise not_ready(self._thread.failure)
        most = self._settings.most_requests
        if self.held >= most:
            why = f"{most} requests are waiting or being answered: try again later."
            raise ApiError(429, why, code="queue_full", headers={"retry-after": "1"})
        self.held += 1
        self._metrics.held.set(self.held)
        try:
            yield
        finally:
            self.held -= 1
            self._metrics.held.set(self.held)

    def _log(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Logs one line: nothing of what was asked or answered."""
        # Addresses that are not there are a stranger's text.
        route = scope.get("route")
        path = "other" if route is None else getattr(route, "path", "other")
        self._metrics.responses.labels(path, str(status)).inc()
        said = {"status": status, "seconds": f"{seconds:.3f}", **scope[LOG]}
        words = " ".join(f"{name}={value}" for name, value in said.items())
        level = logging.DEBUG if path in _QUIET else logging.INFO
        _logger.log(level, "%s %s %s", scope["method"], path, words)


class _Passage:
    """The two directions of one request, within their times."""

    def __init__(self, settings: ServerSettings, receive: Receive, send: Send) -> None:
        self._settings, self._receive, self._send = settings, receive, send
        self._has_all = False
        self._until = time.monotonic() + settings.upload_seconds
        self.status: int | None = None

    async def receive(self) -> Message:
        if self._has_all:
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            why = f"The body did not come in {self._settings.upload_seconds:g} s."
            raise ApiError(408, why) from None
        self._has_all = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 400 and not self._has_all:
                await self._drain()
                closing = (b"connection", b"close")
                message = {**message, "headers": [*message["headers"], closing]}
        async with asyncio.timeout(self._settings.write_seconds):
            await self._send(message)

    async def _drain(self) -> None:
        """Throws away what is left of a body, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._has_all:
                    message = await self._receive()
                    self._has_all = not message.get("more_body", False)


def leave_with(scope: Scope, callback: Callable[[], Any]) -> None:
    """Has something done when a request has gone, however it ends."""
    scope[EXIT].callback(callback)


def log_with(scope: Scope, **said: Any) -> None:
    """Adds to the line that is logged of a request."""
    scope[LOG].update(said)
