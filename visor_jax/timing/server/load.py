"""Many clients at once, some of whom do not behave; what each of them got is checked.

    whole      waits for an answer in one           stream     reads it as it comes
    leave      goes away after its first token      vanish     right after asking
    malformed  sends what is no request: 400        slow       reads a few bytes a time
    oversized  an image of too many pixels: 422     flood      a body too large: 413

Every answer is compared with what the same question was answered before, its id with
those of all others, and what follows its end must be the next answer: so nothing is
lost, mixed up or answered twice.
"""

import asyncio
import base64
import collections
import dataclasses
import io
import itertools
import json
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from visor_jax.timing.server.connection import Connection, Reply, is_end

PATH = "/v1/chat/completions"
# Of a hundred requests.
SHARES = {
    **{"whole": 41, "stream": 41, "leave": 10, "vanish": 1},
    **{"malformed": 5, "oversized": 1, "slow": 1},
}
# Kinds that are refused, and how; "flood" is every other of the oversized.
REFUSED = {"malformed": 400, "oversized": 422, "flood": 413}
_MALFORMED = (
    b'{"model": ',
    b"[]",
    b'"\xff\xfe"',
    b'{"model": 3, "messages": "?"}',
    b'{"messages": [], "colour": "red"}',
)
_PAUSE = 0.05
# On a side: 100 megapixels.
_BOMB_SIDE = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a client asks, and what it must be answered.

    body: of the request. answer: its text; None where it is not known.
    """

    body: dict[str, Any]
    answer: str | None

    @classmethod
    def about(
        cls,
        page: UInt8[np.ndarray, "h w 3"],
        prompt: str,
        *,
        model: str,
        budget: str,
        answer: str | None = None,
    ) -> "Question":
        """Returns a question about an image, which is sent as a PNG."""
        file = io.BytesIO()
        Image.fromarray(page).save(file, "PNG")
        image = {"url": _data_uri(file.getvalue())}
        content = [
            {"type": "image_url", "image_url": image},
            {"type": "text", "text": prompt},
        ]
        messages = [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "budget": budget}
        return cls(body=body, answer=answer)


def kinds_of(count: int, *, seed: int = 0) -> list[str]:
    """Returns what each of the requests does, by the shares, one of each at least."""
    names, shares = list(SHARES), np.array(list(SHARES.values()))
    counts = np.maximum(count * shares // shares.sum(), 1)
    # What is left, or too much, are answers in one.
    counts[0] += count - counts.sum()
    if counts[0] < 1:
        raise ValueError(f"{count} requests are too few for every kind: {names}.")
    kinds = np.repeat(names, counts)
    np.random.default_rng(seed).shuffle(kinds)
    found, floods = kinds.tolist(), itertools.cycle(["oversized", "flood"])
    return [next(floods) if kind == "oversized" else kind for kind in found]


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What came of a load.

    seconds: of all of it. cpu_seconds: that the clients took. first_seconds: to the
    first token, of every stream that was read at once. counts: of requests by kind.
    wrong: what should not have been.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_seconds: list[float] = dataclasses.field(default_factory=list)
    counts: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    wrong: list[str] = dataclasses.field(default_factory=list)

    def answered(self) -> int:
        """Returns how many requests were answered to their end."""
        return sum(self.counts[kind] for kind in ("whole", "stream", "slow"))

    def quantiles(self) -> tuple[float, float]:
        """Returns the seconds to the first token, p50 and p95."""
        p50, p95 = np.quantile(self.first_seconds, (0.5, 0.95))
        return float(p50), float(p95)


class Load:
    """Requests that are sent by several clients, each one after the other."""

    def __init__(
        self,
        host: str,
        port: int,
        questions: Sequence[Question],
        kinds: Sequence[str],
        *,
        clients: int,
        flood_bytes: int,
    ) -> None:
        """Sends nothing yet. flood_bytes: of a body that is too large."""
        self._host, self._port, self._clients = host, port, clients
        self._kinds, self._questions = kinds, questions
        self._bodies = [
            _body(q, kind) for q, kind in zip(questions, kinds, strict=True)
        ]
        self._bomb, self._flood = _bomb_body(questions[0]), b" " * flood_bytes
        self._ids: set[str] = set()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Returns what came of it."""
        began, used = time.perf_counter(), time.process_time()
        asyncio.run(self._run())
        self.outcome.seconds = time.perf_counter() - began
        self.outcome.cpu_seconds = time.process_time() - used
        return self.outcome

    async def _run(self) -> None:
        numbers = iter(range(len(self._kinds)))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client(numbers))

    async def _client(self, numbers: Iterator[int]) -> None:
        connection = Connection(self._host, self._port)
        for number in numbers:
            kind = self._kinds[number]
            try:
                why = await self._ask(connection, number, kind)
            except (OSError, EOFError, ValueError, LookupError) as error:
                why = f"{type(error).__name__}: {error}"
                connection.leave()
            self.outcome.counts[kind] += 1
            if why:
                self.outcome.wrong.append(f"request {number} ({kind}): {why}")
        connection.leave()

    async def _ask(self, connection: Connection, number: int, kind: str) -> str | None:
        """Returns what was wrong with what a request got, or None."""
        body = self._bodies[number]
        if kind == "vanish":
            connection.leave()
            await connection.send(PATH, body)
            connection.leave()
            return None
        if kind == "slow":
            return await self._read(
                number, await connection.ask_slowly(PATH, body, _PAUSE)
            )
        if kind in REFUSED:
            malformed = _MALFORMED[number % len(_MALFORMED)]
            own = {"oversized": self._bomb, "flood": self._flood}
            reply = await connection.ask(PATH, own.get(kind, malformed))
            told = json.loads(await reply.body())["error"]["message"]
            is_right = reply.status == REFUSED[kind] and told
            return None if is_right else f"status {reply.status}, {told}"
        began = time.perf_counter()
        reply = await connection.ask(PATH, body)
        if kind == "leave":
            await anext(reply.events())
            connection.leave()
            return None
        return await self._read(number, reply, began)

    async def _read(
        self, number: int, reply: Reply, began: float | None = None
    ) -> str | None:
        """Reads an answer to its end; returns what is wrong with it, or None."""
        if reply.status != 200:
            return f"status {reply.status}, {await reply.body()!r:.200}"
        if not reply.headers["content-type"].startswith("text/event-stream"):
            found = json.loads(await reply.body())
            text = found["choices"][0]["message"]["content"]
            return self._problem(number, found["id"], text, found.get("usage"))
        pieces, ends, usage, name = [], 0, None, ""
        async for event in reply.events():
            if began is not None:
                self.outcome.first_seconds.append(time.perf_counter() - began)
                began = None
            if is_end(event):
                ends += 1
                continue
            chunk = json.loads(event)
            if "error" in chunk:
                return str(chunk["error"])
            name, usage = chunk["id"], chunk.get("usage") or usage
            pieces += [c["delta"].get("content", "") for c in chunk["choices"]]
        if ends != 1:
            return f"{ends} ends"
        return self._problem(number, name, "".join(pieces), usage)

    def _problem(
        self, number: int, name: str, text: str, usage: dict[str, int] | None
    ) -> str | None:
        wanted = self._questions[number].answer
        if wanted is not None and text != wanted:
            return f"answered {text!r}, not {wanted!r}"
        if not usage or usage["total_tokens"] <= usage["completion_tokens"]:
            return f"usage {usage}"
        if name in self._ids:
            return f"answer {name} came twice"
        self._ids.add(name)
        return None


def _body(question: Question, kind: str) -> bytes:
    streams = kind in ("stream", "leave", "slow")
    return json.dumps({**question.body, "stream": streams}).encode()


def _bomb_body(question: Question) -> bytes:
    """Returns a question about a PNG whose head says that it is very large."""
    sizes = struct.pack(">IIBBBBB", _BOMB_SIDE, _BOMB_SIDE, 8, 2, 0, 0, 0)
    head = b"IHDR" + sizes
    chunk = struct.pack(">I", len(sizes)) + head + struct.pack(">I", zlib.crc32(head))
    image = {"url": _data_uri(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")}
    content = [{"type": "image_url", "image_url": image}]
    messages = [{"role": "user", "content": content}]
    return json.dumps({**question.body, "messages": messages}).encode()


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
