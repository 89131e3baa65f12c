"""Which URLs may be fetched, and at which addresses: hosts on a list, public networks.

    https://img.example.org/a.png        if "img.example.org" is on the list
    http://img.example.org:8080/a.png    if "img.example.org:8080" is
    https://a.b.example.org/c.png        if "*.example.org" is
    https://me@img.example.org/a.png     refused, as is every other trick of writing
    https://img.example.org/a.png        refused if any address of the host is private

A URL comes from whoever asks, and the machine that answers sees more of the network
than they do: a name that resolves to 127.0.0.1, to a neighbour or to a cloud's metadata
service must lead nowhere. So every address that a host has is checked, also the IPv4
address inside of an IPv6 one, and what is connected to is a checked address, not the
name: it may resolve to another one a moment later.
"""

import dataclasses
import ipaddress
import queue
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator, Sequence

from visor_jax.runtime.arguments import shown

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LONGEST = 8192
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Holds an IPv4 address in its last 32 bits: RFC 6052.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A URL taken apart.

    host: in lower case, an IPv6 address without brackets. path: with what is asked.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> "Place":
        """Returns the place that a URL names.

        Raises:
          ValueError: unless it is a plain http or https URL.
        """
        if len(url) > _LONGEST or re.search(r"[\x00-\x20\x7f\\]", url):
            raise ValueError(
                f"{shown(url)} is no URL that is fetched: it has blanks, backslashes "
                f"or more than {_LONGEST} characters; write %20 for a blank."
            )
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"{shown(url)} is no URL: {error}.") from error
        if parts.scheme not in _PORTS:
            raise ValueError(f"{shown(url)} is fetched by neither http nor https.")
        if "@" in parts.netloc:
            raise ValueError(
                f"{shown(url)} has a name or password before its host: leave it out."
            )
        host = host.removesuffix(".")
        if not _HOST.fullmatch(host) and not _is_address(host):
            raise ValueError(
                f"{shown(url)} has no host that could be asked: write the name in "
                "letters, digits and hyphens (others as xn--...)."
            )
        query = f"?{parts.query}" if parts.query else ""
        path = urllib.parse.quote(
            f"{parts.path or '/'}{query}", safe="/?%:@!$&'()*+,;=-._~"
        )
        port = _PORTS[parts.scheme] if port is None else port
        return cls(scheme=parts.scheme, host=host, port=port, path=path)

    @property
    def authority(self) -> str:
        """The host as a request names it, with the port where it is not the usual."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def check_hosts(hosts: Sequence[str]) -> None:
    """Raises ValueError unless all are hosts, as a list of allowed ones has them."""
    wrong = []
    for each in hosts:
        name, _ = _name_and_port(each)
        bare = name.removeprefix("*.")
        if not _HOST.fullmatch(bare) and not _is_address(bare):
            wrong.append(each)
    if wrong:
        raise ValueError(
            f"Allowed hosts {shown(wrong)} are none: write names like "
            "'img.example.org', '*.example.org' or 'img.example.org:8080', without "
            "https://."
        )


def is_allowed(place: Place, hosts: Sequence[str]) -> bool:
    """Returns whether a list of hosts names this one.

    An entry without a port is for the scheme's own; "*.a.b" is every name below a.b.
    """
    for each in hosts:
        name, port = _name_and_port(each)
        if (_PORTS[place.scheme] if port is None else port) != place.port:
            continue
        below = name.startswith("*.") and place.host.endswith(name[1:])
        if below or name == place.host:
            return True
    return False


def _name_and_port(entry: str) -> tuple[str, int | None]:
    """Returns an allowed host in lower case and its port; "" for what is no host."""
    try:
        parts = urllib.parse.urlsplit(f"//{entry}")
        if entry != parts.netloc:
            return "", None
        return (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        return "", None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def read_networks(networks: Sequence[str]) -> tuple[_Network, ...]:
    """Returns the networks of texts like "10.0.0.0/8". Raises ValueError for others."""
    try:
        return tuple(ipaddress.ip_network(each) for each in networks)
    except ValueError as error:
        raise ValueError(
            f"Allowed networks {shown(networks)}: {error}; write them like "
            "'10.1.0.0/16'."
        ) from error


def checked_addresses(
    place: Place, networks: Sequence[_Network], seconds: float
) -> list[str]:
    """Returns the addresses of a host, all of which may be connected to.

    networks: that may be although they are private.

    Raises:
      ValueError: if any address is private, or there is none.
      TimeoutError: if nobody says in that time.
    """
    found = _resolved(place, seconds)
    if not found or not all(_may_be_asked(each, networks) for each in found):
        raise ValueError(
            f"Host {place.host!r} has an address that is not public: nothing is "
            "fetched from it."
        )
    return [str(each) for each in found]


def _resolved(place: Place, seconds: float) -> list[_Address]:
    """Returns the host's addresses; the system's resolver knows no time limit."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def resolve() -> None:
        try:
            kind = {"type": socket.SOCK_STREAM}
            answers.put(socket.getaddrinfo(place.host, place.port, **kind))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0))
    except queue.Empty:
        raise TimeoutError(f"nobody knows {place.host!r} in time") from None
    if isinstance(answer, Exception):
        raise ValueError(
            f"Host {place.host!r} is not known ({answer}): check the URL."
        ) from answer
    found = dict.fromkeys(address[0] for _, _, _, _, address in answer)
    return [ipaddress.ip_address(each) for each in found]


def _may_be_asked(address: _Address, networks: Sequence[_Network]) -> bool:
    inner = list(_addresses_inside(address))
    if any(each in network for each in (address, *inner) for network in networks):
        return True
    return all(_is_public(each) for each in (address, *inner))


def _is_public(address: _Address) -> bool:
    if address.version == 4:
        return address.is_global and not (address.is_multicast or address.is_reserved)
    if address.scope_id or address.is_site_local or address.is_multicast:
        return False
    # 6to4, whose relays are gone (RFC 7526): global to some versions of Python alone.
    if address.sixtofour is not None:
        return False
    # Judged by the IPv4 address inside: these networks are global nowhere.
    if address.ipv4_mapped is not None or address in _TRANSLATED:
        return True
    return address.is_global and not address.is_reserved


def _addresses_inside(address: _Address) -> Iterator[_Address]:
    """Yields the IPv4 addresses that an IPv6 one leads to."""
    if address.version == 4:
        return
    yield from filter(None, (address.ipv4_mapped, address.sixtofour))
    if address in _TRANSLATED:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
