"""`python -m visor_jax.serve` in a process of its own, and what its metrics say."""

import collections
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

# All 0 where no request is.
NEVER_KEPT = (
    *("visor_requests_held", "visor_requests_in_engine"),
    *("visor_requests_queued", "visor_slots_busy"),
)
COMPILED = "visor_compiled_programs_total"
DEVICE_BYTES = "visor_device_bytes"
MEMORY_BYTES = "process_resident_memory_bytes"
OPEN_FILES = "process_open_fds"
CPU_SECONDS = "process_cpu_seconds_total"
# Of one thread, with its name.
THREAD_SECONDS = "visor_thread_cpu_seconds"
_SECONDS = 300.0


class ServedProcess:
    """A server that runs. host, port: where; lines: what it has logged."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Starts it. Raises ValueError if it does not begin to listen."""
        command = [sys.executable, "-m", "visor_jax.serve", "--port=0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.lines, found = [], None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r" at http://([\d.]+):(\d+);", line):
                break
        if found is None:
            raise ValueError(f"No server: {''.join(self.lines)}")
        self.host, self.port = found[1], int(found[2])
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self) -> float:
        """Returns the seconds until it took requests. Raises ValueError if it ends."""
        began = time.perf_counter()
        while self.health()["status"] != "ready":
            if self.process.poll() is not None:
                raise ValueError(f"The server ended: {''.join(self.lines[-3:])}")
            time.sleep(0.1)
        return time.perf_counter() - began

    def health(self) -> dict:
        """Returns what /health says."""
        try:
            return json.loads(self._get("/health"))
        except urllib.error.HTTPError as error:
            return json.load(error)

    def cpu_seconds(self) -> dict[str, float]:
        """Returns the processor seconds so far: the engine's thread, that of HTTP, and
        all others, which run the network's programs and read large images.
        """
        text = self._get("/metrics").decode()
        kinds = rf'^{THREAD_SECONDS}\{{thread="(\w+)"\}} (\S+)'
        found = {name: float(n) for name, n in re.findall(kinds, text, re.M)}
        (whole,) = re.findall(rf"^{CPU_SECONDS} (\S+)", text, re.M)
        return {**found, "others": float(whole) - sum(found.values())}

    def metrics(self) -> dict[str, float]:
        """Returns the numbers by name, summed over their labels."""
        found: dict[str, float] = collections.Counter()
        for line in self._get("/metrics").decode().splitlines():
            if not line.startswith("#"):
                key, number = line.rsplit(maxsplit=1)
                found[key.partition("{")[0]] += float(number)
        return found

    def wait_until_empty(self) -> dict[str, float]:
        """Returns the metrics once no request is left; after a while as they are."""
        until = time.monotonic() + _SECONDS
        while True:
            found = self.metrics()
            is_empty = not any(found[name] for name in NEVER_KEPT)
            if is_empty or time.monotonic() > until:
                return found
            time.sleep(0.1)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Returns how it ended. Raises subprocess.TimeoutExpired if it does not."""
        return self.process.wait(_SECONDS)

    def _get(self, path: str) -> bytes:
        url = f"http://{self.host}:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return answer.read()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += self.process.stderr


@contextlib.contextmanager
def served(arguments: Sequence[str]) -> Iterator[ServedProcess]:
    """Yields a server that is ready, which is ended afterwards."""
    found = ServedProcess(arguments)
    try:
        found.wait_until_ready()
        yield found
    finally:
        found.process.kill()
        found.process.wait()
