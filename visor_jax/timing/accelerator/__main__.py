"""Times kernels, networks and the engine on the accelerator of this machine.

    python -m visor_jax.timing.accelerator --out=DIR [--parts=attention,prefill] \\
        [--limit_s=540] [--tiny]

    card       peak of a bfloat16 product, bandwidth                       25 s
    attention  every kernel at the networks' shapes                        90 s
    prefill    every budget and the dense plan: time saved / FLOPs saved  150 s
    torch      the dense plan in transformers, same card                   50 s
    decode     tokens a second                                             60 s
    training   a universal step, traced gates                              80 s
    engine     mixed budgets against each alone                            80 s

Each part runs in a process of its own, which is ended when its time is up; `--limit_s`
holds for all together. Results are written as they come: DIR/results.json (its form is
told in `visor_jax.timing.accelerator.record`), DIR/results.md, and DIR/log.txt. No
checkpoint is needed: parameters are random. Compiled programs are kept, so that a
second run on the same machine spends its time on measuring.
"""

from absl import flags

from visor_jax.commands import command_line
from visor_jax.timing.accelerator.record import CARD, PartRecord, Record

# {part: (module, seconds)}; one is imported in its own process alone.
PARTS = {
    CARD: ("card", 25.0),
    "attention": ("attention", 90.0),
    "prefill": ("prefill", 150.0),
    "torch": ("torch_reference", 50.0),
    "decode": ("decode", 60.0),
    "training": ("training", 80.0),
    "engine": ("engine", 80.0),
}


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("out", None, "Folder for the results, made if not there.")
    flags.DEFINE_list("parts", list(PARTS), f"Of {', '.join(PARTS)}.")
    flags.DEFINE_float("limit_s", 540.0, "For all parts together.", lower_bound=1.0)
    flags.DEFINE_bool("tiny", False, "Tiny shapes, for a dry run on a CPU.")
    flags.DEFINE_string("part", None, "Run this part here and print its rows.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import importlib
import json
import os
import sys
import time
from pathlib import Path

from visor_jax.runtime import output_place
from visor_jax.runtime.ownership import owned_folder
from visor_jax.timing.accelerator.measure import (
    Deadline,
    TimeIsUp,
    Unavailable,
    failure,
)
from visor_jax.timing.accelerator.runner import END, GRACE, run_part

_PACKAGE = "visor_jax.timing.accelerator"
_PROGRAMS = "/tmp/visor_jax_programs"


def main(arguments: list[str]) -> None:
    """Runs all parts, or the one of a process of its own."""
    del arguments
    options = flags.FLAGS
    if options.part is not None:
        print_rows(options.part, limit_s=options.limit_s, tiny=options.tiny)
        return
    with command_line.user_errors():
        if options.out is None:
            raise ValueError("--out=DIR is needed: where the results go.")
        unknown = sorted(set(options.parts) - set(PARTS))
        if unknown:
            raise ValueError(f"Unknown parts {unknown}: choose among {list(PARTS)}.")
        folder = output_place.check_folder(options.out, "--out")
        folder.mkdir(parents=True, exist_ok=True)
    # The card says what the others' shares are of.
    names = [name for name in PARTS if name in {CARD, *options.parts}]
    with owned_folder(folder, remedy="Wait for it, stop it, or give another --out."):
        record = measure(folder, names, limit_s=options.limit_s, tiny=options.tiny)
    print(record.table())


def measure(folder: Path, names: list[str], *, limit_s: float, tiny: bool) -> Record:
    """Returns what the parts measured; the folder has it as well."""
    end = time.monotonic() + limit_s
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _PROGRAMS)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # cuDNN's calls hold an address, by which no kept program would be found again.
    os.environ.setdefault("JAX_REMOVE_CUSTOM_PARTITIONING_PTR_FROM_CACHE_KEY", "1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    record = Record()
    with (folder / "log.txt").open("ab") as log:
        for name in names:
            part = PartRecord(name)
            record.parts.append(part)
            _, own = PARTS[name]
            seconds = min(own, end - time.monotonic() - GRACE)
            if seconds < GRACE:
                part.status, part.reason = "skipped", "no time was left"
                continue
            log.write(f"== {name}\n".encode())
            log.flush()
            run_part(
                part,
                _command(name, seconds - GRACE, tiny=tiny),
                limit_s=seconds,
                log=log,
                on_row=lambda: record.write(folder),
            )
            record.write(folder)
            print(f"{name}: {part.status}, {part.seconds:.0f} s", flush=True)
    record.write(folder)
    return record


def _command(name: str, seconds: float, *, tiny: bool) -> list[str]:
    options = [f"--part={name}", f"--limit_s={max(1.0, seconds)}"]
    options += ["--tiny"] if tiny else []
    return [sys.executable, "-m", _PACKAGE, *options]


def print_rows(name: str, *, limit_s: float, tiny: bool) -> None:
    """Prints the rows of a part as they come, and how it ended, a JSON line each."""
    deadline = Deadline(limit_s)
    module = importlib.import_module(f"{_PACKAGE}.{PARTS[name][0]}")
    end = {END: "done"}
    try:
        for row in module.rows(tiny=tiny, deadline=deadline):
            print(json.dumps(row), flush=True)
    except TimeIsUp as error:
        end = {END: "timeout", "reason": str(error)}
    except Unavailable as error:
        end = {END: "skipped", "reason": str(error)}
    except Exception as error:
        print(json.dumps({END: "failed", "reason": failure(error)}), flush=True)
        raise
    print(json.dumps(end), flush=True)


if __name__ == "__main__":
    command_line.run(main)
