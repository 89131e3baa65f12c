"""The process that the compiler runs in: the same command, told that it is the child.

parent                                    child
checks flags, counts by formula
starts the child, same arguments    ->    reads the same flags, compiles
reads JSON or why it ended          <-    prints one line of JSON
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from visor_jax.plan.tpu.compiled_step import CompiledStep
from visor_jax.plan.tpu.slices import SLICES, Slices

_CHILD = "VISOR_JAX_PLAN_CHILD"
_LOCK = "libtpu_lockfile"
# How much of what a child said before it ended is told.
_CHARACTERS = 400


class CompilerError(Exception):
    """The compiler ended without a result; the text says why, and what to do."""


def is_child(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether this process is to compile, and not to ask."""
    return _CHILD in environment


def prepare_compiler() -> None:
    """Lets this process load the compiler, before anything does."""
    # A machine without TPUs has nobody to ask what it is, and nothing to share.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def print_result(compiled: CompiledStep) -> None:
    """Prints what the parent reads."""
    print(json.dumps(dataclasses.asdict(compiled)), flush=True)


def compile_in_child(slices: Slices, arguments: Sequence[str]) -> CompiledStep:
    """Returns what the same command makes of its arguments in a process of its own.

    Raises:
      CompilerError: if that process ends without a result.
    """
    command = [sys.executable, "-m", "visor_jax.plan", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, _CHILD: "1"},
        )
        said.seek(0)
        errors = said.read()
    if done.returncode == 0:
        return CompiledStep.from_dict(json.loads(done.stdout.splitlines()[-1]))
    raise CompilerError(reason(done.returncode, errors, slices))


def reason(code: int, errors: str, slices: Slices) -> str:
    """Returns why a child ended, in one line with a remedy.

    Args:
      code: of its exit; negative is the signal that ended it.
      errors: all that it wrote to stderr.
    """
    if _LOCK in errors or "already in use by process" in errors:
        return (
            "Another process has the compiler for TPUs, and this environment allows "
            "one: wait for it, or unset ALLOW_MULTIPLE_LIBTPU_LOAD."
        )
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("error: ")]
    if own:
        return own[-1].removeprefix("error: ")
    last = _telling(lines) if lines else f"it ended with code {code}"
    if code == -signal.SIGKILL:
        return (
            f"The compiler for {slices} was killed: if this machine ran out of memory, "
            "plan with --effort=fast, or on a larger one."
        )
    if code < 0:
        return (
            f"The compiler ended by {signal.Signals(-code).name} for {slices} "
            f"({last}). Slices of {slices.kind} that it knows: "
            f"{', '.join(SLICES[slices.kind])}."
        )
    return f"The compiler failed for {slices} ({last})."


def _telling(lines: Sequence[str]) -> str:
    """Returns the line that says most: an exception's, else the last."""
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (raised or lines)[-1][:_CHARACTERS]
