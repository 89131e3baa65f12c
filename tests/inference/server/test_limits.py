"""What a server refuses, cuts off and forgets, and how it ends."""

import contextlib
import logging
import socket
import threading
import time

import httpx
import openai
import pytest

from tests.inference.server import served
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.server import timed_heads

CHEAP = served.BUDGETS[0]
BODY = {"model": "tiny", "budget": CHEAP, "messages": served.messages("Tell me.")}
KEY = "s3cret"


def ask(server, body=BODY, **how):
    return httpx.post(f"{server.url}/chat/completions", json=body, timeout=600, **how)


def get(server, path):
    return httpx.get(f"{server.origin}{path}", timeout=600)


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    return response.json()["error"]


def answer_of(response):
    return response.json()["choices"][0]["message"]["content"]


def slow_down(server, seconds=0.05):
    """Has every step of the engine take so long."""
    engine = server.service.thread.engine
    step = engine.step

    def slowly():
        time.sleep(seconds)
        return step()

    engine.step = slowly


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_empty(server):
    """Returns whether the engine has nothing of any request."""
    thread = server.service.thread
    scheduler = thread.engine.scheduler
    busy, _ = scheduler.decode_batches.slot_counts()
    kept = (thread._streams, thread._numbers, scheduler._requests, scheduler._payers)
    return busy == 0 and not any(kept) and scheduler.is_idle


@contextlib.contextmanager
def half_a_request(server, body=b"5\r\n{'mod\r\n"):
    """Holds a connection whose request has not ended; yields its socket."""
    port = int(server.origin.rpartition(":")[2])
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head + body)
        yield connection


def test_a_key_is_asked_for_before_anything_else():
    with served.serving(api_key=KEY, max_body_bytes=100) as server:
        for given in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY}):
            refused = ask(server, headers=given)
            assert refused.status_code == 401
            assert error_of(refused)["code"] == "invalid_api_key"
        assert get(server, "/v1/models").status_code == 401
        assert get(server, "/metrics").status_code == 401
        assert get(server, "/health").status_code == 200
        client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
        assert client.models.list().data[0].id == "tiny"
        client = openai.OpenAI(base_url=server.url, api_key="other", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert KEY not in repr(server.service.settings)


def test_bodies_that_are_too_large_are_read_no_further():
    with served.serving(max_body_bytes=2000) as server:
        large = [{"role": "user", "content": "x" * 3000}]
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        with pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model="tiny", messages=large)
        assert raised.value.status_code == 413
        assert raised.value.body["code"] == "request_too_large"
        sent = []

        def endless():
            while True:
                sent.append(1000)
                yield b" " * 1000

        began = time.monotonic()
        with contextlib.suppress(httpx.WriteError):
            refused = ask(server, None, content=endless())
            assert refused.status_code == 413
            assert error_of(refused)["code"] == "request_too_large"
            assert refused.headers["connection"] == "close"
        assert time.monotonic() - began < 60
        assert ask(server).is_success


def connected(server):
    port = int(server.origin.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read_until_closed(connection):
    """Returns what comes before the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("line", [b"X-Long: " + b"a" * 900, b"X-A: b\r\n" * 90])
def test_heads_without_end_are_cut_off(line):
    with served.serving() as server, connected(server) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 10_000_000:
                sent += connection.send(line)
        # It closes long before: the rest lies in the buffers of both sides.
        assert sent < 10_000_000
        assert read_until_closed(connection)[:12] in (b"", b"HTTP/1.1 400")
        assert ask(server).is_success


def test_heads_that_do_not_come_to_an_end_are_waited_for_so_long(monkeypatch):
    monkeypatch.setattr(timed_heads, "HEAD_SECONDS", 0.5)
    whole = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with served.serving() as server:
        for begun in (b"", b"GET / HT", whole, whole + b"GET /he"):
            with connected(server) as connection:
                connection.sendall(begun)
                came = time.monotonic()
                found = read_until_closed(connection)
                assert time.monotonic() - came < 20
                assert found.count(b"HTTP/1.1 200") == begun.count(whole)
        # Who is answered in the meantime is not cut off.
        slow_down(server, 0.3)
        assert ask(server).is_success


def test_more_requests_than_are_held_wait_at_home():
    with served.serving(most_requests=1, upload_seconds=4) as server:
        with half_a_request(server) as connection:
            wait_for(lambda: "requests_held 1.0" in get(server, "/metrics").text)
            refused = ask(server)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert error_of(refused)["type"] == "rate_limit_error"
            client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
            with pytest.raises(openai.RateLimitError, match="try again later"):
                client.chat.completions.create(model="tiny", messages=BODY["messages"])
            # The one that never ends is refused when its time is up.
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"did not come" in answer or b"did not come" in connection.recv(4096)
        assert ask(server).is_success


def test_an_answer_that_takes_too_long_is_no_answer():
    with served.serving(seconds=2.0) as server:
        slow_down(server, 0.7)
        late = ask(server)
        assert late.status_code == 504
        assert error_of(late)["code"] == "deadline_exceeded"
        # In the midst of an answer it is the last that is sent.
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        kept = {"model": "tiny", "messages": BODY["messages"]}
        parts = client.chat.completions.create(
            **kept, stream=True, extra_body={"budget": CHEAP}
        )
        with pytest.raises(openai.APIError, match="time"):
            list(parts)
        wait_for(lambda: is_empty(server))


def test_a_client_that_goes_away_leaves_its_slot():
    with served.serving() as server:
        alone = answer_of(ask(server))
        slow_down(server, 0.3)
        url, gone = f"{server.url}/chat/completions", 0
        for stream in (True, False):
            for _ in range(2):
                body = {**BODY, "stream": stream}
                with (
                    contextlib.suppress(httpx.ReadTimeout),
                    httpx.stream("POST", url, json=body, timeout=1.0) as response,
                ):
                    next(response.iter_lines())
                gone += 1
                outcomes = server.service.metrics.outcomes
                counted = outcomes.labels("cancelled")._value
                wait_for(lambda: counted.get() == gone)  # noqa: B023
                wait_for(lambda: is_empty(server))
        assert answer_of(ask(server)) == alone


def test_what_stops_a_step_ends_its_requests_and_no_others():
    with served.serving() as server:
        scheduler = server.service.thread.engine.scheduler
        rounds, failures = scheduler.round, [RuntimeError("a device is away")]

        def failing():
            if failures:
                scheduler.forget()
                raise failures.pop()
            rounds()

        scheduler.round = failing
        failed = ask(server)
        assert failed.status_code == 500
        assert "RuntimeError" in error_of(failed)["message"]
        assert "away" not in failed.text
        assert ask(server).is_success


def test_a_server_that_is_not_ready_takes_no_requests():
    with served.serving() as server:
        thread = server.service.thread
        thread.is_ready = False
        refused = ask(server)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "not_ready")
        assert get(server, "/health").status_code == 503
        thread.is_ready = True
        assert ask(server).is_success


def test_health_is_ready_when_all_is_compiled(monkeypatch):
    compiled = threading.Event()

    def warm_up(engine, buckets, *, report):
        report(1, 3, "prefill", 0.1)
        assert compiled.wait(60)
        report(3, 3, "decode", 0.1)

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    with served.serving(wait=False) as server:
        wait_for(lambda: get(server, "/health").json()["programs"] == 1)
        found = get(server, "/health")
        said = {"status": "not ready", "programs": 1, "of": 3, "model": "tiny"}
        assert (found.status_code, found.json()) == (503, said)
        assert ask(server).status_code == 503
        compiled.set()
        wait_for(lambda: get(server, "/health").status_code == 200)
        said = {"status": "ready", "programs": 3, "of": 3, "model": "tiny"}
        assert get(server, "/health").json() == said
        assert ask(server).is_success


def test_a_server_that_is_stopped_ends_what_it_has_begun():
    with served.serving() as server:
        slow_down(server)
        url, lines = f"{server.url}/chat/completions", []
        body = {**BODY, "stream": True}
        with httpx.stream("POST", url, json=body, timeout=600) as response:
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == 3:
                    server.server.should_exit = True
        assert [line for line in lines if line][-1] == "data: [DONE]"
        wait_for(lambda: not server.service.thread._thread.is_alive())
        with pytest.raises(httpx.ConnectError):
            ask(server)


def test_one_line_is_logged_and_nothing_of_what_was_said(caplog):
    logger = logging.getLogger("visor_jax")
    secret = "My account is 12345."
    with served.serving() as server, caplog.at_level(logging.INFO, logger.name):
        answer = ask(server, {**BODY, "messages": served.messages(secret)})
        ask(server, {**BODY, "n": 2})
        get(server, "/health")
        get(server, "/12345")
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("gate")]
    good, bad, other = lines
    assert good.startswith("POST /v1/chat/completions status=200 seconds=")
    for said in ("budget=sa0", "completion_tokens=12", "finish=length", "first_token="):
        assert said in good
    assert bad.startswith("POST /v1/chat/completions status=400")
    assert other.startswith("GET other status=404")
    written = answer.json()["choices"][0]["message"]["content"]
    assert not [line for line in lines if "12345" in line or written in line]


def test_clients_side_by_side_get_what_each_gets_alone():
    texts = ["A", "Bee", "Cee, please.", "D?", "Eh", "F!"]
    bodies = [{**BODY, "messages": served.messages(text)} for text in texts]
    found = {}
    with served.serving() as server:
        alone = [answer_of(ask(server, body)) for body in bodies]
        assert len(set(alone)) == len(alone)

        def client(number):
            answer = answer_of(ask(server, bodies[number % len(texts)]))
            found[number] = answer == alone[number % len(texts)]

        threads = [threading.Thread(target=client, args=(n,)) for n in range(18)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert is_empty(server)
    assert found == dict.fromkeys(range(18), True)
