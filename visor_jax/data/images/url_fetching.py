"""Images from http and https URLs of allowed hosts, within limits of all kinds.

    fetch = UrlFetcher(hosts=("img.example.org",))
    pixels = read_image("https://img.example.org/a.png", fetch=fetch)

    a host that is not on the list, a private address    refused before anything is sent
    a redirect                                           all checks again, a few at most
    from https to http                                   refused
    more bytes than allowed, said or sent                refused, the rest is not read
    an endless answer, endless headers, a slow server    refused at the time limit
    compressed content, a type that is no image's        refused

Hosts are asked themselves, past any proxy: it would resolve the name again.
"""

import contextlib
import dataclasses
import functools
import http.client
import io
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator

from visor_jax.data.images.url_address import (
    Place,
    check_hosts,
    checked_addresses,
    is_allowed,
    read_networks,
)
from visor_jax.runtime.arguments import shown, whole_number

# From a URL to the bytes behind it; raises ValueError for what it does not fetch.
Fetch = Callable[[str], bytes]

_REDIRECTS = (301, 302, 303, 307, 308)
# What stores that know no types say of everything.
_UNTYPED = ("application/octet-stream", "binary/octet-stream")
_CHUNK = 1 << 16
# Around the content: headers, and the lengths of chunks.
_OVERHEAD = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class UrlFetcher:
    """Fetches from some hosts, and from nowhere else; for one thread or for many.

    hosts: "img.example.org", "*.example.org", "img.example.org:8080". networks: private
      ones that hosts may be in all the same, "10.1.0.0/16"; none unless told.
    max_bytes: of one answer. seconds: for all of one URL, redirects included.
    redirects: at most so many. tls: None for the system's certificates.

    Raises ValueError for values of another form.
    """

    hosts: tuple[str, ...]
    networks: tuple[str, ...] = ()
    max_bytes: int = 32 << 20
    seconds: float = 15.0
    redirects: int = 3
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        check_hosts(self.hosts)
        read_networks(self.networks)
        whole_number(self.max_bytes, "max_bytes", least=1)
        whole_number(self.redirects, "redirects", least=0)
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds={self.seconds} must be above 0, and finite.")

    def __call__(self, url: str) -> bytes:
        """Returns the content of a URL.

        Raises:
          ValueError: for whatever is not fetched (the table at the top), or fails.
        """
        deadline = time.monotonic() + self.seconds
        try:
            return self._content(url, deadline)
        except TimeoutError as error:
            raise ValueError(
                f"{shown(url)} did not come within {self.seconds:g} s: nothing of it "
                "is used."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(
                f"{shown(url)} cannot be fetched: {error or type(error).__name__}."
            ) from error

    def _content(self, url: str, deadline: float) -> bytes:
        asked, place = url, Place.of(url)
        for _ in range(1 + self.redirects):
            if not is_allowed(place, self.hosts):
                raise ValueError(
                    f"{shown(asked)} is not fetched: {place.authority!r} is not among "
                    f"the allowed hosts {shown(list(self.hosts))}."
                )
            with self._answer(place, deadline) as answer:
                if answer.status not in _REDIRECTS:
                    return self._body(asked, answer)
                asked = urllib.parse.urljoin(asked, answer.getheader("Location", ""))
            before, place = place, Place.of(asked)
            if before.scheme == "https" and place.scheme == "http":
                raise ValueError(f"{shown(url)} leads from https to http: not fetched.")
        raise ValueError(
            f"{shown(url)} is redirected more than {self.redirects} times: give the "
            "URL that it leads to."
        )

    @contextlib.contextmanager
    def _answer(
        self, place: Place, deadline: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Yields the answer of a checked address, its headers read."""
        networks = read_networks(self.networks)
        addresses = checked_addresses(place, networks, _left(deadline))
        with self._connected(place, addresses, deadline) as connection:
            connection.settimeout(_left(deadline))
            connection.sendall(
                f"GET {place.path} HTTP/1.1\r\n"
                f"Host: {place.authority}\r\n"
                "User-Agent: visor_jax\r\n"
                "Accept: image/*, video/*;q=0.9, */*;q=0.1\r\n"
                "Accept-Encoding: identity\r\n"
                "Connection: close\r\n\r\n".encode("ascii")
            )
            wire = _Wire(connection, deadline, 2 * self.max_bytes + _OVERHEAD)
            answer = http.client.HTTPResponse(_Files(wire), method="GET")
            with contextlib.closing(answer):
                answer.begin()
                yield answer

    def _connected(
        self, place: Place, addresses: list[str], deadline: float
    ) -> socket.socket:
        for i, address in enumerate(addresses):
            # One that does not answer leaves time for the others.
            patience = _left(deadline) / (len(addresses) - i)
            try:
                plain = socket.create_connection((address, place.port), patience)
                break
            except OSError:
                if i == len(addresses) - 1:
                    raise
        if place.scheme == "http":
            return plain
        with contextlib.ExitStack() as undo:
            undo.callback(plain.close)
            plain.settimeout(_left(deadline))
            context = self.tls or _system_certificates()
            # The certificate must be the name's, whatever address was taken.
            secured = context.wrap_socket(plain, server_hostname=place.host)
            undo.pop_all()
        return secured

    def _body(self, url: str, answer: http.client.HTTPResponse) -> bytes:
        if answer.status != 200:
            raise ValueError(
                f"{shown(url)} cannot be fetched: the host answers {answer.status} "
                f"{shown(answer.reason)}."
            )
        kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
        if not kind.startswith(("image/", "video/")) and kind not in _UNTYPED:
            raise ValueError(f"{shown(url)} is {shown(kind)}, no image or video.")
        encoded = answer.getheader("Content-Encoding", "identity").strip().lower()
        if encoded != "identity":
            raise ValueError(f"{shown(url)} comes compressed ({shown(encoded)}).")
        said, parts, size = answer.length, [], 0
        if (said or 0) > self.max_bytes:
            raise self._too_large(url)
        while part := answer.read(_CHUNK):
            size += len(part)
            if size > self.max_bytes:
                raise self._too_large(url)
            parts.append(part)
        if said is not None and size < said:
            raise ValueError(f"{shown(url)} ends after {size} of {said} bytes.")
        return b"".join(parts)

    def _too_large(self, url: str) -> ValueError:
        return ValueError(
            f"{shown(url)} has more than {self.max_bytes:,} bytes: give a smaller file."
        )


@functools.cache
def _system_certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    """Returns the seconds that are left. Raises TimeoutError if none are."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Wire(io.RawIOBase):
    """What a connection sends, until a time and up to a number of bytes.

    A timeout of a socket is for one packet: a server that sends a byte now and then
    would be waited for without end.
    """

    def __init__(self, connection: socket.socket, deadline: float, most: int) -> None:
        self._connection, self._deadline, self._left = connection, deadline, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("the host sends more than any answer may have")
        return count


@dataclasses.dataclass(frozen=True)
class _Files:
    """The part of a socket that `HTTPResponse` asks for."""

    wire: _Wire

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        return io.BufferedReader(self.wire, _CHUNK)
