"""A command of the package that notes its compiled programs, one line each, in a file.

    python -c 'from visor_jax.timing.counted_start import run; run()' FILE MODULE ...

Lines are written at once: a process that is killed has noted what it did.
"""

import dataclasses
import json
import runpy
import sys
import threading
from pathlib import Path

import jax

# As jax calls them; the second is sent for every program, compiled or found.
_FOUND = "/jax/compilation_cache/cache_hits"
_MADE = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that a process needed.

    seconds: until it was there. found: whether it was kept from another start.
    """

    name: str
    seconds: float
    found: bool


def count_programs(file: Path) -> None:
    """Has every program that this process needs from now on noted in the file."""
    # Both events of a program come from the thread that asks for it.
    here = threading.local()

    def event(name: str, **details: object) -> None:
        del details
        if name == _FOUND:
            here.found = True

    def duration(name: str, seconds: float, **details: object) -> None:
        if name != _MADE:
            return
        found, here.found = getattr(here, "found", False), False
        program = Program(str(details.get("fun_name", "?")), seconds, found)
        with file.open("a") as lines:
            lines.write(json.dumps(dataclasses.asdict(program)) + "\n")

    jax.monitoring.register_event_listener(event)
    jax.monitoring.register_event_duration_secs_listener(duration)


def noted_programs(file: Path) -> list[Program]:
    """Returns the programs of a file; of one that is not there, none."""
    if not file.exists():
        return []
    return [Program(**json.loads(line)) for line in file.read_text().splitlines()]


def run() -> None:
    """Runs the module that the arguments name, counted."""
    file, module, *arguments = sys.argv[1:]
    count_programs(Path(file))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
