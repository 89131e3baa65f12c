"""A server of pictures on this machine, which also does all that one must not do."""

import contextlib
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

Answer = Callable[["Asked"], None]


class Asked(socketserver.StreamRequestHandler):
    """One request; `send` writes bytes as they are."""

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        headers = {}
        while (header := self.rfile.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name] = value
        path = line.split(" ")[1]
        self.server.asked.append((headers["Host"], path))
        with contextlib.suppress(OSError):
            self.server.answers[path](self)

    def send(self, *parts: str | bytes) -> None:
        for part in parts:
            self.wfile.write(part.encode() if isinstance(part, str) else part)

    def drip(self, text: str, *, seconds: float = 0.05) -> None:
        """Sends the text again and again, slowly, until the other side goes away."""
        while True:
            self.send(text)
            time.sleep(seconds)


class PictureServer(socketserver.ThreadingTCPServer):
    """asked: (host, path) of every request. answers: {path: what is done then}."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), Asked)
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Answer] = {}
        self.port = self.server_address[1]

    def has(self, path: str, content: bytes, *headers: str) -> None:
        """Answers with a content under these headers."""
        lines = "".join(f"{each}\r\n" for each in headers)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n{lines}\r\n"
        self.answers[path] = lambda asked: asked.send(head, content)

    def leads(self, path: str, to: str) -> None:
        """Answers with a redirect."""
        head = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        self.answers[path] = lambda asked: asked.send(head)


@contextlib.contextmanager
def serving() -> Iterator[PictureServer]:
    """Yields a server while it runs."""
    with PictureServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
