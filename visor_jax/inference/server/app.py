"""The web app: routes, errors, and what begins and ends with it.

GET  /                     a page to try it, where there is one
GET  /health               200 once requests are taken, else 503
GET  /metrics              Prometheus
GET  /v1/models            and /v1/models/NAME
POST /v1/chat/completions  `chat_route`
POST /v1/visor/looks       and /v1/visor/times: `looks_route`, of a server with the page
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visor_jax import __version__
from visor_jax.inference.server.api_errors import ApiError, tell_errors
from visor_jax.inference.server.chat_route import chat_routes
from visor_jax.inference.server.service import Service

PAGE = Path(__file__).with_name("page.html")


def make_app(service: Service) -> FastAPI:
    """Returns the app; its start begins the engine's thread, its end waits for it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        service.thread.start()
        yield
        await asyncio.to_thread(service.thread.stop)

    app = FastAPI(
        title="visor_jax",
        version=__version__,
        lifespan=lifespan,
        # Their pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        max_body_size=service.settings.max_body_bytes,
    )
    tell_errors(app)
    app.include_router(chat_routes(service))
    for routes in service.more_routes:
        app.include_router(routes(service))
    _add_small_routes(app, service)
    return app


def _add_small_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        thread = service.thread
        done, total = thread.warmed_up
        said = {"programs": done, "of": total, "model": service.settings.name}
        if thread.is_ready:
            return JSONResponse({"status": "ready", **said})
        status = "failed" if thread.failure else "not ready"
        return JSONResponse({"status": status, **said}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        service.metrics.tell_thread("http")
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [service.describe()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        service.check_model(name)
        return service.describe()

    @app.get("/", response_model=None)
    async def page() -> Response:
        if not PAGE.exists():
            raise ApiError(404, "There is no page here: POST /v1/chat/completions.")
        return FileResponse(PAGE, media_type="text/html")
