"""A small Google Cloud Storage in this process: what gcsfs and tensorstore ask of it.

    @pytest.fixture
    def storage():
        with fake_storage("bucket") as storage:
            yield storage

Objects are whole or not there, and written over have another generation, which
`ifGenerationMatch` asks for. A test says which requests are refused (`refuses`).
"""

import base64
import contextlib
import functools
import hashlib
import json
import re
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from visor_jax.runtime.remote import bucket as buckets_module

# Of a listing: pages as the real one's, but short enough to have several.
PAGE = 50
_UPDATED = "2026-01-01T00:00:00.000000Z"


class FakeStorage:
    """Buckets and their objects, served until the process ends.

    refuses: from (method, object's name) to an HTTP status, or None. writes: names of
    objects, in the order in which they were written.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, tuple[bytes, int]]] = {}
        self.refuses: Callable[[str, str], int | None] = lambda method, name: None
        self.writes: list[str] = []
        self.lock = threading.Lock()
        self._generation = 0
        self.uploads: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"storage": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        # Of clients that have gone, which some do in these tests.
        self._server.handle_error = lambda *_: None
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self, *buckets: str) -> None:
        """Begins anew with these buckets, which are empty."""
        self.buckets = {name: {} for name in buckets}
        self.refuses = lambda method, name: None
        self.writes.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process take it for the real one."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "FSSPEC_GCS_TOKEN": "anon",
            # Would ask the real one, by gRPC, for the kind of bucket.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
        }

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Returns the names of the objects below a prefix, without it, sorted."""
        with self.lock:
            found = sorted(self.buckets[bucket])
        return [n.removeprefix(prefix) for n in found if n.startswith(prefix)]

    def read(self, bucket: str, name: str) -> bytes:
        return self.buckets[bucket][name][0]

    def write(self, bucket: str, name: str, content: bytes) -> int:
        """Returns the generation of the object, new or written over."""
        with self.lock:
            self._generation += 1
            self.buckets[bucket][name] = content, self._generation
            self.writes.append(name)
            return self._generation

    def begin(self) -> str:
        """Returns the number of a new upload that comes in pieces."""
        with self.lock:
            number = str(len(self.uploads))
            self.uploads[number] = b""
            return number


@functools.cache
def _of_this_process() -> FakeStorage:
    """Returns the one server: file systems keep the address they began with."""
    return FakeStorage()


@contextlib.contextmanager
def fake_storage(*buckets: str) -> Iterator[FakeStorage]:
    """Yields a storage with these buckets, for this process and those that it starts.

    Skips the test without gcsfs.
    """
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install -e '.[gcs]'")
    storage = _of_this_process()
    storage.reset(*buckets)
    buckets_module._usable.clear()
    with pytest.MonkeyPatch.context() as here, tempfile.TemporaryDirectory() as cache:
        for name, value in (storage.environment | {"XDG_CACHE_HOME": cache}).items():
            here.setenv(name, value)
        yield storage


class _Handler(BaseHTTPRequestHandler):
    """Answers one request after another of one connection."""

    protocol_version = "HTTP/1.1"
    storage: FakeStorage

    def log_message(self, *_: object) -> None:
        pass

    def _do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._body = self._chunks()
        path, _, query = self.path.partition("?")
        self._query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        found = re.fullmatch(
            r"(/upload|/download)?(?:/resumable)?/storage/v1/b/([^/]+)(/o)?(?:/(.+))?",
            path,
        )
        if found is None:
            return self._error(404, f"nothing is at {path}")
        upload, bucket, objects, name = found.groups()
        name = urllib.parse.unquote(name) if name else self._query.get("name", "")
        if self.command == "POST" and upload and not name:
            name = self._described()["name"]
        status = self.storage.refuses(self.command, name)
        if status is not None:
            return self._error(status, "refused by the test")
        if bucket not in self.storage.buckets:
            return self._error(404, "The specified bucket does not exist.")
        if not objects:
            return self._json({"kind": "storage#bucket", "name": bucket})
        if upload == "/upload":
            return self._upload(bucket, name)
        if not name:
            return self._list(bucket)
        if self.command == "DELETE":
            return self._delete(bucket, name)
        if self.command == "POST":
            return self._move(bucket, *name.split("/moveTo/o/"))
        return self._get(bucket, name)

    do_GET = do_POST = do_PUT = do_DELETE = _do

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _described(self) -> dict[str, Any]:
        """Returns the JSON that an upload begins with."""
        found = re.search(rb"\{.*?\}(?=\s*(?:\r?\n--|$))", self._body, re.DOTALL)
        return json.loads(found[0]) if found else {}

    def _is_other(self, bucket: str, name: str) -> bool:
        """Returns whether the object is not of the generation that is demanded."""
        wanted = self._query.get("ifGenerationMatch")
        there = self.storage.buckets[bucket].get(name)
        return wanted is not None and int(wanted) != (there[1] if there else 0)

    def _upload(self, bucket: str, name: str) -> None:
        kind = self._query.get("uploadType")
        if self._is_other(bucket, name):
            return self._error(412, "conditionNotMet")
        content = self._body
        if kind == "resumable" and (number := self._query.get("upload_id")) is None:
            place = f"{self.storage.url}{self.path}&upload_id={self.storage.begin()}"
            return self._answer(200, b"{}", {"Location": place})
        if kind == "resumable":
            self.storage.uploads[number] += content
            content = self.storage.uploads[number]
            if self.headers.get("Content-Range", "").endswith("/*"):
                so_far = {"Range": f"bytes=0-{len(content) - 1}"}
                return self._answer(308, b"", so_far)
        if kind == "multipart":
            boundary = content.split(None, 1)[0]
            part = content.split(b"\n" + boundary)[1]
            content = re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
        self.storage.write(bucket, name, content)
        return self._json(self._resource(bucket, name))

    def _get(self, bucket: str, name: str) -> None:
        there = self.storage.buckets[bucket].get(name)
        if there is None:
            return self._error(404, f"No such object: {bucket}/{name}")
        content, generation = there
        if self._query.get("alt") != "media":
            return self._json(self._resource(bucket, name))
        if self._is_other(bucket, name):
            return self._error(412, "conditionNotMet")
        if self._query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304, b"", {})
        headers, status = {"x-goog-generation": str(generation)}, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked:
            begin, end = _range(asked[1], asked[2], len(content))
            if begin >= len(content):
                return self._error(416, "nothing is there")
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            content, status = content[begin:end], 206
        return self._answer(status, content, headers)

    def _delete(self, bucket: str, name: str) -> None:
        if self._is_other(bucket, name):
            return self._error(412, "conditionNotMet")
        with self.storage.lock:
            gone = self.storage.buckets[bucket].pop(name, None)
        return self._error(404, "No such object") if gone is None else self._json({})

    def _move(self, bucket: str, name: str, target: str) -> None:
        if name not in self.storage.buckets[bucket]:
            return self._error(404, "No such object")
        with self.storage.lock:
            content, _ = self.storage.buckets[bucket].pop(name)
        self.storage.write(bucket, target, content)
        return self._json(self._resource(bucket, target))

    def _list(self, bucket: str) -> None:
        prefix = self._query.get("prefix", "")
        delimiter = self._query.get("delimiter", "")
        begin = max(
            self._query.get("startOffset", ""), self._query.get("pageToken", "")
        )
        end = self._query.get("endOffset", "")
        items, folders, more = [], [], ""
        for name in self.storage.names(bucket):
            if not name.startswith(prefix) or name < begin or (end and name >= end):
                continue
            if len(items) == min(PAGE, int(self._query.get("maxResults", PAGE))):
                more = name
                break
            first, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if not found:
                items.append(self._resource(bucket, name))
            elif (folder := f"{prefix}{first}{delimiter}") not in folders:
                folders.append(folder)
        answer = {"kind": "storage#objects", "items": items, "prefixes": folders}
        return self._json(answer | ({"nextPageToken": more} if more else {}))

    def _resource(self, bucket: str, name: str) -> dict[str, Any]:
        content, generation = self.storage.buckets[bucket][name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": _UPDATED,
            "updated": _UPDATED,
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        }

    def _json(self, content: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), {})

    def _error(self, status: int, message: str) -> None:
        self._json({"error": {"code": status, "message": message}}, status)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _range(first: str, last: str, length: int) -> tuple[int, int]:
    """Returns begin and end of the bytes that a Range header names."""
    if not first:
        return max(length - int(last), 0), length
    return int(first), min(int(last) + 1 if last else length, length)
