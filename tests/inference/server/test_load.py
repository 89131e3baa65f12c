"""Many clients of all kinds at once, then SIGTERM: nothing is lost, doubled or kept.

    VISOR_LOAD_REQUESTS=2000 python -m pytest -m slow -s \\
        tests/inference/server/test_load.py

prints requests a second and the time to the first token, too.
"""

import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import visor_jax
from tests.inference import page_run
from tests.inference.server import served

ROOT = Path(__file__).parents[3]
CLIENTS = 32
REQUESTS = int(os.environ.get("VISOR_LOAD_REQUESTS", "400"))
QUESTIONS = ("largest digit row 1", "digit row 2 column 3", "digit row 1 column 1")
# What clients do, and how many of a hundred.
SHARES = {
    "whole": 42,
    "stream": 41,
    "leave": 10,
    "malformed": 5,
    "oversized": 1,
    "slow": 1,
}
STATUS = {"malformed": 400, "oversized": 413}
NEVER_KEPT = ("requests_held", "requests_in_engine", "requests_queued", "slots_busy")


class Server:
    """The command in a process of its own; origin: where it listens."""

    def __init__(self, workdir):
        command = [
            *(sys.executable, "-m", "visor_jax.serve", f"--checkpoint={workdir}"),
            *("--port=0", "--name=pages", "--body_mb=1", "--text_tokens=8"),
            *("--rows=1", "--slots=8", "--tokens_per_turn=2"),
        ]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.lines = []
        said = self.process.stderr.readline()
        self.origin = re.search(r" at (http://[\d.:]+);", said)[1]
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self.lines += self.process.stderr

    def wait_until_ready(self):
        while httpx.get(f"{self.origin}/health", timeout=600).status_code != 200:
            assert self.process.poll() is None
            time.sleep(0.2)

    def metrics(self):
        """Returns the numbers by name, without labels."""
        found = collections.Counter()
        for line in httpx.get(f"{self.origin}/metrics", timeout=600).text.splitlines():
            if not line.startswith("#"):
                key, number = line.rsplit(maxsplit=1)
                found[key.partition("{")[0].removeprefix("visor_")] += float(number)
        return found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return page_run.save(tmp_path_factory.mktemp("run"), page_run.parameters())


@pytest.fixture
def server(workdir):
    found = Server(workdir)
    try:
        found.wait_until_ready()
        yield found
    finally:
        found.process.kill()
        found.process.wait()


class Clients:
    """What clients asked and got; a letter of the table is one request."""

    def __init__(self, url, expected, kinds):
        self.url, self.expected, self.kinds = url, expected, kinds
        self.images = [served.data_uri(page_run.page(seed)) for seed in (0, 1)]
        self.asked = iter(range(len(kinds)))
        self.got = collections.defaultdict(list)
        self.first_seconds, self.wrong = [], []
        self.lock = threading.Lock()

    def run(self):
        threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self):
        with httpx.Client(timeout=600) as client:
            while True:
                with self.lock:
                    number = next(self.asked, None)
                if number is None:
                    return
                try:
                    got = self.ask(client, number)
                except Exception as error:
                    got = repr(error)
                with self.lock:
                    self.got[number].append(got)

    def body(self, number, **more):
        page, question = number % 2, QUESTIONS[number % 3]
        image = {"type": "image_url", "image_url": {"url": self.images[page]}}
        content = [image, {"type": "text", "text": question}]
        return {
            "model": "pages",
            "messages": [{"role": "user", "content": content}],
            "budget": page_run.BUDGETS[number % 5 % 3],
            **more,
        }

    def ask(self, client, number):
        """Returns what came of a request: a status, "left", or whether it is right."""
        kind = self.kinds[number]
        if kind == "malformed":
            return client.post(self.url, content=b'{"model": ').status_code
        if kind == "oversized":
            text = [{"role": "user", "content": "x" * 2_000_000}]
            return client.post(self.url, json={"messages": text}).status_code
        if kind == "whole":
            found = client.post(self.url, json=self.body(number)).json()
            return self.check(number, found["choices"][0]["message"]["content"])
        return self.stream(client, number, kind)

    def stream(self, client, number, kind):
        began, pieces, is_done = time.perf_counter(), [], False
        body = self.body(number, stream=True)
        with client.stream("POST", self.url, json=body) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    is_done = True
                elif line:
                    chunk = json.loads(line.removeprefix("data: "))
                    if not pieces:
                        self.first_seconds.append(time.perf_counter() - began)
                    pieces += [c["delta"].get("content", "") for c in chunk["choices"]]
                if kind == "leave":
                    return "left"
                if kind == "slow":
                    time.sleep(0.2)
        return is_done and self.check(number, "".join(pieces))

    def check(self, number, text):
        wanted = self.expected[number % 2, number % 3, number % 5 % 3]
        if text != wanted:
            self.wrong.append((number, text, wanted))
        return text == wanted


def expected_answers(workdir):
    """Returns the answers by page, question and budget."""
    model = visor_jax.load(workdir)
    keys = [(p, q, b) for p in (0, 1) for q in range(3) for b in range(3)]
    found = {}
    for budget in range(3):
        own = [key for key in keys if key[2] == budget]
        requests = [
            visor_jax.Request(QUESTIONS[q], page_run.page(p)) for p, q, _ in own
        ]
        answers = model.generate_all(requests, page_run.BUDGETS[budget])
        found |= dict(zip(own, answers, strict=True))
    return found


@pytest.mark.slow
def test_everything_at_once_and_then_the_end(server, workdir):
    rng = np.random.default_rng(0)
    names = [name for name, share in SHARES.items() for _ in range(share)]
    kinds = [*SHARES, *rng.choice(names, REQUESTS - len(SHARES)).tolist()]
    url = f"{server.origin}/v1/chat/completions"
    clients = Clients(url, expected_answers(workdir), kinds)
    before, began = server.metrics(), time.perf_counter()
    clients.run()
    seconds = time.perf_counter() - began
    assert not clients.wrong
    assert sorted(clients.got) == list(range(REQUESTS))
    for number, got in clients.got.items():
        wanted = "left" if kinds[number] == "leave" else STATUS.get(kinds[number], True)
        assert got == [wanted], (number, kinds[number])
    until = time.monotonic() + 300
    while any(server.metrics()[name] for name in NEVER_KEPT):
        assert time.monotonic() < until, server.metrics()
        time.sleep(0.1)
    after = server.metrics()
    entered = sum(kind not in STATUS for kind in kinds)
    assert after["outcomes_total"] == entered
    # Clients keep no connection open; what the server has open is as before.
    assert after["process_open_fds"] <= before["process_open_fds"] + 2
    assert server.process.poll() is None
    quantiles = np.quantile(clients.first_seconds, (0.5, 0.95)).round(3).tolist()
    print(
        f"\n{REQUESTS} requests of {CLIENTS} clients in {seconds:.1f} s, "
        f"{REQUESTS / seconds:.3g} a second; first token p50, p95: {quantiles} s; "
        f"{after['outcomes_total']:g} entered the engine; memory grew by "
        f"{(after['process_resident_memory_bytes'] - before['process_resident_memory_bytes']) / 1e6:.0f} MB"  # noqa: E501
    )
    end_in_good_order(server, clients)


def end_in_good_order(server, clients):
    """Stops the server while answers are written: they come to their end."""
    begun, ended = threading.Barrier(9), []

    def client(number):
        body = clients.body(number, stream=True)
        with httpx.stream("POST", clients.url, json=body, timeout=600) as response:
            lines = response.iter_lines()
            first = next(lines)
            begun.wait()
            ended.append([first, *filter(None, lines)][-1])

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert ended == ["data: [DONE]"] * 8
    assert server.process.wait(300) == 0
    with contextlib.suppress(httpx.ConnectError):
        httpx.get(f"{server.origin}/health")
        raise AssertionError("it still answers")
    assert any("stopped by SIGTERM" in line for line in server.lines)
