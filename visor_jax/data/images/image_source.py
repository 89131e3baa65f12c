"""Where an image comes from, when a text says so: a file, a URL of one, or base64.

page.png, /a/b c.png            a file
file:///a/b%20c.png             a file: the same
data:image/png;base64,iVBO...   the bytes themselves; line breaks in them are none
https://a.b/c.png               refused, unless the caller says how to fetch it
"""

import base64
import binascii
import io
import re
import urllib.parse
from typing import Any, Protocol, runtime_checkable

from visor_jax.data.images.url_fetching import Fetch
from visor_jax.runtime.arguments import shown

# "c:\page.png" is a file.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


@runtime_checkable
class BinaryFile(Protocol):
    """A file that was opened in binary mode, or what reads like one."""

    def read(self, size: int = -1, /) -> bytes:
        """Returns the bytes from here on."""
        ...


def from_url(source: str, name: str, fetch: Fetch | None = None) -> str | bytes:
    """Returns the path of a file, or the bytes that a data URI or the net holds.

    Args:
      source: as at the top. name: what errors call it.
      fetch: gets http and https URLs; None to refuse them.

    Raises:
      ValueError: for a URL that is not fetched, or a damaged data URI.
    """
    if source[:5].lower() == "data:":
        return _from_data_uri(source, name)
    scheme = _SCHEME.match(source)
    if scheme is None:
        return source
    if fetch is not None and scheme[1].lower() in ("http", "https"):
        return fetch(source)
    if scheme[1].lower() != "file":
        raise ValueError(
            f"{_capital(name)} {shown(source)} is a URL, and nothing is fetched from "
            "the net: download it first, and give the file or its bytes; or allow its "
            "host, if it is http or https: --allow_hosts, load(..., allow_hosts=[...])."
        )
    path = urllib.parse.unquote(source[scheme.end() :])
    return path.removeprefix("localhost")


def _from_data_uri(source: str, name: str) -> bytes:
    head, comma, content = source.partition(",")
    if not comma or not content.strip():
        raise ValueError(
            f"{_capital(name)} {shown(source)} is a data URI without data: write "
            "data:image/png;base64, and the image in base64."
        )
    if head.lower().endswith(";base64"):
        # "+" may be written "%2B" there.
        return from_base64(urllib.parse.unquote(content), f"{name} in a data URI")
    return urllib.parse.unquote_to_bytes(content)


def from_base64(text: Any, name: str) -> bytes:
    """Returns the bytes of a text in base64, which may have line breaks.

    Raises:
      ValueError: for anything else.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not isinstance(text, str):
        raise ValueError(
            f"{_capital(name)} cannot be decoded: it is a {type(text).__name__}, not a "
            "text."
        )
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{_capital(name)} cannot be decoded: {error} ({shown(text)})."
        ) from error


def content_of(file: BinaryFile, name: str) -> bytes:
    """Returns the bytes of an open file from its beginning on.

    Raises:
      ValueError: for a file that was opened as text, is closed, or cannot be read.
    """
    is_text = isinstance(file, io.TextIOBase)
    try:
        # As Pillow does: the same file may be read for several questions.
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        content = None if is_text else file.read()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Cannot read {name} from {shown(file)} ({error}): give an open file, or "
            "its bytes."
        ) from error
    if not isinstance(content, bytes):
        raise ValueError(
            f"Cannot use {name}: {shown(file)} was opened as text; open it in binary "
            "mode, 'rb'."
        )
    return content


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
