"""Many clients of all kinds at once: nothing is lost, doubled or kept; all is told.

The same for 2,000 requests, and the end by SIGTERM: `test_command`, which is slow.
"""

import asyncio
import json
import threading

import pytest

pytest.importorskip("fastapi", reason="needs: pip install -e .[serve]")

from tests.inference.server import served
from visor_jax.timing.server.load import Load, Question, kinds_of

REQUESTS, CLIENTS, BODY_BYTES = 70, 12, 200_000
TEXTS = ("What is it?", "Why?", "Who, then?")


def questions(count):
    """Returns questions, with what the network answers to each."""
    model, found = served.model(), {}
    for number in range(count):
        seed, text, budget = number % 2, TEXTS[number % 3], served.BUDGETS[number % 2]
        page, key = served.picture(seed=seed), (seed, text, budget)
        if key not in found:
            answer = model.generate(page, text, budget)
            how = {"model": "tiny", "budget": budget, "answer": answer}
            found[key] = Question.about(page, text, **how)
        yield found[key]


def load(server, asked, kinds):
    port = int(server.origin.rpartition(":")[2])
    limits = {"clients": CLIENTS, "flood_bytes": 2 * BODY_BYTES}
    return Load("127.0.0.1", port, asked, kinds, **limits).run()


def counted(server, name):
    return sum(
        sample.value
        for metric in server.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    )


def is_empty(server):
    thread = server.service.thread
    scheduler = thread.engine.scheduler
    busy, _ = scheduler.decode_batches.slot_counts()
    kept = (thread._streams, thread._numbers, scheduler._requests, scheduler._payers)
    held = counted(server, "visor_requests_held")
    return not (busy or held or any(kept)) and scheduler.is_idle


def wait_until_empty(server):
    tick = threading.Event()
    while not is_empty(server):
        tick.wait(0.02)


def test_nothing_is_lost_doubled_or_kept():
    asked, kinds = list(questions(REQUESTS)), kinds_of(REQUESTS)
    with served.serving(max_body_bytes=BODY_BYTES) as server:
        # All images are known then, and all arrays as large as they become.
        assert load(server, asked[:12], ["stream", "whole"] * 6).wrong == []
        wait_until_empty(server)
        names = ("visor_device_bytes", "visor_outcomes_total")
        device, before = (counted(server, name) for name in names)
        outcome = load(server, asked, kinds)
        wait_until_empty(server)
        assert outcome.wrong == []
        assert sum(outcome.counts.values()) == REQUESTS
        assert counted(server, "visor_device_bytes") == device
        entered = outcome.answered() + outcome.counts["leave"]
        came = counted(server, "visor_outcomes_total") - before
        assert entered <= came <= entered + outcome.counts["vanish"]
        # A wrong answer would have been found.
        spoilt = [Question(body=each.body, answer="No.") for each in asked[:2]]
        found = load(server, [*spoilt, asked[2]], ["whole", "stream", "whole"])
        assert [each.partition(":")[0] for each in sorted(found.wrong)] == [
            "request 0 (whole)",
            "request 1 (stream)",
        ]


def test_every_kind_is_there_in_its_share():
    kinds = kinds_of(2000, seed=3)
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert counts == {
        **{"flood": 10, "leave": 200, "malformed": 100, "oversized": 10},
        **{"slow": 20, "stream": 820, "vanish": 20, "whole": 820},
    }
    assert kinds != kinds_of(2000, seed=4)
    assert set(kinds_of(20)) >= {"leave", "slow", "whole", "oversized"}
    with pytest.raises(ValueError, match="6 requests are too few"):
        kinds_of(6)


def replying(*replies):
    """Returns what came of asking a server that says this, one after the other."""

    async def run():
        following = iter(replies)

        async def serve(reader, writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length:")[1].split()[0])
                await reader.readexactly(size)
                reply = next(following, None)
                if reply is None:
                    writer.close()
                    return
                head, body = reply.split(b"\r\n\r\n", 1)
                writer.write(head + b"\r\n\r\n")
                # Who closes at the head's end never sees it.
                await asyncio.sleep(0.01)
                writer.write(body)
                if b"Connection: close" in head:
                    writer.close()
                    return

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            question = Question(body={"model": "m", "messages": []}, answer="So.")
            many = [question] * len(replies)
            limits = {"clients": 1, "flood_bytes": 1}
            asked = Load("127.0.0.1", port, many, ["whole"] * len(replies), **limits)
            await asked._run()
            return asked.outcome.wrong

    return asyncio.run(run())


def whole(name, text="So.", status="200 OK", **more):
    usage = {"total_tokens": 5, "completion_tokens": 2}
    message = {"message": {"content": text}}
    said = {"id": name, "choices": [message], "usage": usage, **more}
    return _reply(json.dumps(said), "application/json", status)


def closing(reply):
    return reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def streamed(name, *, ends=1):
    chunk = {"id": name, "choices": [{"delta": {"content": "So."}}]}
    chunk["usage"] = {"total_tokens": 5, "completion_tokens": 2}
    events = [json.dumps(chunk), *["[DONE]"] * ends]
    return _reply("".join(f"data: {e}\n\n" for e in events), "text/event-stream")


def _reply(body, kind, status="200 OK"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("replies", "wrong"),
    [
        ((whole("a"), streamed("b")), []),
        ((closing(whole("a")), whole("b")), []),
        ((whole("a"), whole("a")), ["request 1 (whole): answer a came twice"]),
        ((whole("a", "Oh."),), ["request 0 (whole): answered 'Oh.', not 'So.'"]),
        ((whole("a", usage=None),), ["request 0 (whole): usage None"]),
        ((streamed("a", ends=0),), ["request 0 (whole): 0 ends"]),
        ((streamed("a", ends=2),), ["request 0 (whole): 2 ends"]),
        ((None,), ["request 0 (whole): IncompleteReadError"]),
        ((whole("a", status="500 No"),), ["request 0 (whole): status 500"]),
    ],
)
def test_what_is_wrong_is_told(replies, wrong):
    found = replying(*replies)
    assert len(found) == len(wrong)
    assert all(a.startswith(b) for a, b in zip(found, wrong, strict=True))
