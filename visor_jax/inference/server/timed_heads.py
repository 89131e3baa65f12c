"""Connections on which the head of a request comes in time, or that are closed.

uvicorn bounds how large a head is, and how long a connection is kept between two
requests, but not how long a head may take: clients that begin one and never end it
would hold all of the connections that there are. Bodies have their time in `gate`.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# From a connection's first moment, or from the first byte of another request.
HEAD_SECONDS = 10.0


class TimedHeads(H11Protocol):
    """uvicorn's connection, with a time for heads."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Reads on; a head that is not whole yet is waited for."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
