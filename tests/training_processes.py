"""The training command on a network of two layers, started often at little cost.

Importing what the command needs takes longer than many a test. `Commands` starts one
interpreter that imports it and then forks a child for every command: the same `main`
with the same flags, files, signals and exit codes as `python -m visor_jax.train`.
"""

import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from tests.checkpoints.saved import load_checkpoint
from tests.inference import page_run
from visor_jax.layer_plan import LayerPlan

ROOT = Path(__file__).parents[1]
SMALL = "small"
# (C S) twice over, and a tail: layers that can be scanned.
SCANNED = "scanned"

# Small in every way that does not matter; one conditional is enough.
FLAGS = (
    "--config=configs/universal.py",
    f"--config.model.variant={SMALL}",
    "--config.budgets=('none', 'all')",
    "--config.budget_phases=((1.0, {'any': 1.0}),)",
    "--config.objective.reading_weight=0.0",
    "--config.optimizer.warmup_steps=5",
    "--config.data.batch_size=2",
    "--config.data.pages.pool_size=32",
    "--config.data.pages.questions_per_page=3",
    "--config.data.pages.text_length=24",
    "--config.tower.steps=2",
    "--config.evaluation_pages=8",
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str


class Child:
    """One command that was started."""

    def __init__(self, commands: "Commands", pid: int, files: Path) -> None:
        self._commands, self._files = commands, files
        self.pid = pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Returns the exit code, None while the command runs. Not to be asked again."""
        return self._commands.ask(poll=self.pid)

    def wait(self, seconds: float = 300) -> Ended:
        """Returns how the command ended. Kills it if that takes too long."""
        limit = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                self.kill()
                raise TimeoutError(f"after {seconds} s: {self.read('err')}")
            time.sleep(0.02)
        return Ended(code, self.read("out"), self.read("err"))

    def read(self, name: str) -> str:
        return self._files.with_suffix(f".{name}").read_text()


class Commands:
    """Context manager that starts training commands."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, 0

    def __enter__(self) -> "Commands":
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "COLUMNS": "100",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.training_processes"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()

    def ask(self, **request: Any) -> Any:
        """Returns the server's answer."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        *flags: str,
        devices: int = 1,
        report: bool = False,
        file_bytes: int | None = None,
    ) -> Child:
        """Returns a started command with exactly these flags.

        report: whether a run that is done evaluates its network, which takes longer
          than the run. file_bytes: its files cannot grow beyond so many, as on a full
          disk.
        """
        self._started += 1
        files = self._folder / f"command-{self._started}"
        request = {"flags": flags, "files": str(files), "devices": devices}
        request |= {"report": report, "file_bytes": file_bytes}
        return Child(self, self.ask(**request), files)

    def run(self, *flags: str, devices: int = 1, report: bool = False) -> Ended:
        return self.start(*flags, devices=devices, report=report).wait()

    def start_several(self, count: int, *flags: str) -> list[Child]:
        """Returns the processes of one run, of one device each."""
        address = f"--coordinator=127.0.0.1:{free_port()}"
        of_run = (address, f"--num_processes={count}", *flags)
        return [self.start(*of_run, f"--process_id={i}") for i in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], child: Child, seconds: float = 300):
    """Returns when the condition holds or the child has ended."""
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        if not Path(f"/proc/{child.pid}/stat").exists():
            return
        if Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2][1] == "Z":
            return
        time.sleep(0.02)


def check_same_network(found: Path, expected: Path) -> None:
    """Raises AssertionError unless both runs ended with the same bits and metrics."""
    got, wanted = parameters(found), parameters(expected)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    lines = [(run / "metrics.jsonl").read_bytes() for run in (found, expected)]
    assert lines[0] == lines[1]


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """Returns {path: value} of the newest checkpoint."""
    flat = flax.traverse_util.flatten_dict(load_checkpoint(workdir).params, sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def last_step(workdir: Path) -> int:
    """Returns the step of the last metrics line, 0 if there is none."""
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _serve() -> dict[str, Any] | None:
    """Returns, in a forked child, the command to become; in the parent None, at last.

    Children that were not waited for are killed at the end.
    """
    running = set()
    for line in sys.stdin:
        request, answer = json.loads(line), None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            if pid:
                running.discard(pid)
                answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                return request
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def _main() -> None:
    import jax

    from visor_jax import train
    from visor_jax.commands import command_line
    from visor_jax.models.variants import VARIANTS

    plans = {
        SMALL: LayerPlan.build(2, cross=(0,), self_=(1,)),
        SCANNED: LayerPlan.build(5, cross=(0, 2, 4), self_=(1, 3)),
    }
    for name, plan in plans.items():
        config = page_run.CONFIG.replace(plan=plan, reading_layers=())
        VARIANTS[name] = lambda config=config: config
    command = _serve()
    if command is None:
        return
    if not command["report"]:
        train._TASKS["universal"].report = lambda *_: print("trained")
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{command['files']}.{name}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(file, number)
    if (limit := command["file_bytes"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    jax.config.update("jax_num_cpu_devices", command["devices"])
    sys.argv = ["visor_jax/train.py", *command["flags"]]
    train.define_flags()
    command_line.run(train.main)


if __name__ == "__main__":
    _main()
