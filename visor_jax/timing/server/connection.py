"""HTTP/1.1 as a client of the server needs it, light enough to time a server beside it.

    connection = Connection("127.0.0.1", 8000)
    reply = await connection.ask("/v1/chat/completions", body)
    async for event in reply.events(): ...       # or: await reply.body()

A connection is kept for the next request, as clients do, and closed where the server
says so. Unlike a library for HTTP it can leave in the middle, and read slowly.
"""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator

_EVENT = b"data: "
_DONE = b"[DONE]"
# Of a client that reads slowly: what its system takes for it, and it from there.
_SMALL_BUFFER, _SIP = 2048, 96


@dataclasses.dataclass(frozen=True)
class Reply:
    """The head of an answer; its body is read once."""

    status: int
    headers: dict[str, str]
    _reader: asyncio.StreamReader

    async def body(self) -> bytes:
        """Returns the whole body."""
        return b"".join([part async for part in self._parts()])

    async def events(self) -> AsyncIterator[bytes]:
        """Yields the data of server-sent events, the one that says the end, too."""
        rest = b""
        async for part in self._parts():
            *whole, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in whole:
                for line in event.split(b"\n"):
                    if line.startswith(_EVENT):
                        yield line.removeprefix(_EVENT)

    async def _parts(self) -> AsyncIterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(self.headers["content-length"]))
            return
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()


class Connection:
    """A connection to a server, opened when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        """Opens nothing yet."""
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: bytes) -> Reply:
        """Returns the head of the answer to a POST of JSON."""
        self._close_ended()
        if self._writer is None:
            opened = await asyncio.open_connection(self._host, self._port)
            self._reader, self._writer = opened
        assert self._reader is not None
        self._writer.write(self._head(path, body) + body)
        await self._writer.drain()
        reply = _reply(await self._reader.readuntil(b"\r\n\r\n"), self._reader)
        if reply.headers.get("connection") == "close":
            # Its body is still to be read: it is closed before the next request.
            self._ended, self._reader, self._writer = self._writer, None, None
        return reply

    async def send(self, path: str, body: bytes) -> None:
        """Asks, and waits for no answer."""
        opened = await asyncio.open_connection(self._host, self._port)
        self._reader, self._writer = opened
        self._writer.write(self._head(path, body) + body)
        await self._writer.drain()

    async def ask_slowly(self, path: str, body: bytes, pause: float) -> Reply:
        """Returns an answer that was read a few bytes at a time.

        pause: seconds between two reads.
        """
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, (self._host, self._port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=_SIP)
        writer.write(self._head(path, body, "Connection: close\r\n") + body)
        await writer.drain()
        found = b""
        while part := await reader.read(_SIP):
            found += part
            await asyncio.sleep(pause)
        writer.close()
        head, _, rest = found.partition(b"\r\n\r\n")
        whole = asyncio.StreamReader()
        whole.feed_data(rest)
        whole.feed_eof()
        return _reply(head, whole)

    def leave(self) -> None:
        """Goes away, whatever is on its way."""
        self._close_ended()
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    def _close_ended(self) -> None:
        if self._ended is not None:
            self._ended.close()
            self._ended = None

    def _head(self, path: str, body: bytes, more: str = "") -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{more}"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode("ascii")


def is_end(event: bytes) -> bool:
    """Returns whether this is the last event of an answer."""
    return event == _DONE


def _reply(head: bytes, reader: asyncio.StreamReader) -> Reply:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.lower(): value.strip() for name, value in pairs}
    return Reply(int(first.split()[1]), headers, reader)
