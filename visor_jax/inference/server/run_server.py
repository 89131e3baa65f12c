"""A service on a socket, by uvicorn, until SIGTERM or Ctrl-C."""

import socket

import uvicorn

from visor_jax.inference.server.app import make_app
from visor_jax.inference.server.gate import Gate
from visor_jax.inference.server.service import Service
from visor_jax.inference.server.timed_heads import TimedHeads

# Connections for one request that is held: clients keep some open between two.
_CONNECTIONS = 8


def run_server(
    service: Service, listening: socket.socket, *, grace_seconds: float
) -> None:
    """Serves until it is told to stop, and then until its requests are answered.

    Returns when the engine's thread has ended; ends by itself if that fails.

    Args:
      listening: a socket that is bound. grace_seconds: for the requests to end.
    """
    server_of(service, grace_seconds=grace_seconds).run(sockets=[listening])


def server_of(service: Service, *, grace_seconds: float) -> uvicorn.Server:
    """Returns the server of a service, which is not started yet."""

    async def notice() -> None:
        if service.thread.failure is not None:
            server.should_exit = True

    # Outermost: FastAPI tells of a body that is too large in a form of its own.
    gate = Gate(make_app(service), service.settings, service.thread, service.metrics)
    config = uvicorn.Config(
        gate,
        http=TimedHeads,
        ws="none",
        lifespan="on",
        # What is logged is said by this project's own line a request.
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS * service.settings.most_requests,
        timeout_graceful_shutdown=int(grace_seconds),
        callback_notify=notice,
        timeout_notify=1,
    )
    server = uvicorn.Server(config)
    return server
