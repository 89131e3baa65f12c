"""Times starts of a command: the first with nothing kept, the others with its programs.

    python -m visor_jax.timing.starts -- visor_jax.generate --checkpoint=RUN \\
        --image=page.png --prompt="smallest digit"
    python -m visor_jax.timing.starts --until="step +1[/ ]" -- visor_jax.train \\
        --config=configs/universal.py --workdir=/tmp/run-{start} --config.loop.steps=2

Each start is a process of its own: seconds until its first word, and until its end,
processor seconds, and which programs it compiled though they might have been kept.
{start} stands for the number of the start: what goes on where it was needs another
folder each time.
"""

from absl import flags

from visor_jax.commands import command_line

ARGUMENTS = "the module to start, and its flags"


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_integer("starts", 2, "How often it is started.", lower_bound=2)
    flags.DEFINE_string(
        "until",
        None,
        "Regular expression of the first word, in what it prints on both streams; "
        "default: the first character on stdout.",
    )


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from visor_jax.flops.table import aligned
from visor_jax.runtime.machine import machine_description
from visor_jax.timing.counted_start import Program, noted_programs

_COUNTED = "from visor_jax.timing.counted_start import run; run()"
# Of what a start printed, in the error of one that failed.
_LAST_WORDS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a command.

    first: seconds until its first word; None if it never came. whole: until its end.
    processor: seconds of all its processes on all cores. programs: that it needed.
    """

    first: float | None
    whole: float
    processor: float
    programs: list[Program]


def time_starts(
    command: Sequence[str], count: int, until: str | None = None
) -> list[Start]:
    """Returns so many starts of a module with its flags, one after another.

    Args:
      until: regular expression of the first word, on either stream; None for the
        first character on stdout.

    Raises:
      ValueError: for an unusable expression, or a start that failed, with its words.
    """
    try:
        pattern = None if until is None else re.compile(until.encode())
    except re.error as error:
        raise ValueError(f"--until={until!r} is no regular expression: {error}.") from (
            error
        )
    with tempfile.TemporaryDirectory(prefix="visor_jax_starts_") as folder:
        return [
            _start(
                [each.replace("{start}", str(number)) for each in command],
                folder,
                pattern,
            )
            for number in range(1, count + 1)
        ]


def _start(
    command: Sequence[str], folder: str, pattern: re.Pattern[bytes] | None
) -> Start:
    noted = Path(folder, "programs.jsonl")
    noted.unlink(missing_ok=True)
    module, *arguments = command
    arguments = [str(noted), module, *arguments, f"--compilation_cache={folder}/kept"]
    before, began = os.times(), time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _COUNTED, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors if pattern is None else subprocess.STDOUT,
        )
        assert process.stdout is not None
        said, first = _read(process.stdout, pattern)
        if process.wait():
            errors.seek(0)
            last = (said + errors.read()).decode(errors="replace")[-_LAST_WORDS:]
            raise ValueError(f"{module} ended with code {process.returncode}:\n{last}")
    after = os.times()
    return Start(
        first=None if first is None else first - began,
        whole=time.perf_counter() - began,
        processor=after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        programs=noted_programs(noted),
    )


def _read(
    stream: IO[bytes], pattern: re.Pattern[bytes] | None
) -> tuple[bytes, float | None]:
    """Returns all that the stream says, and when the first word was there."""
    said, first = b"", None
    while chunk := os.read(stream.fileno(), 1 << 16):
        said += chunk
        if first is None and (pattern is None or pattern.search(said)):
            first = time.perf_counter()
    return said, first


def table(starts: Sequence[Start]) -> str:
    """Returns a line for each start."""
    head = ["start", "first word", "whole", "processor", "found", "compiled", "longest"]
    rows = []
    for number, start in enumerate(starts, 1):
        compiled = [each for each in start.programs if not each.found]
        longest = max(compiled, key=lambda each: each.seconds, default=None)
        seconds = sum(each.seconds for each in compiled)
        rows.append(
            [
                str(number),
                "-" if start.first is None else f"{start.first:.2f} s",
                f"{start.whole:.2f} s",
                f"{start.processor:.1f} s",
                str(len(start.programs) - len(compiled)),
                f"{len(compiled)} in {seconds:.1f} s",
                f"{longest.name} {longest.seconds:.2f} s" if longest else "-",
            ]
        )
    return "\n".join(aligned([head, *rows]))


def main(arguments: list[str]) -> None:
    """Prints the starts. A user's mistake ends with code 2."""
    _, *command = arguments
    options = flags.FLAGS
    with command_line.user_errors():
        if not command or not command[0].startswith("visor_jax"):
            raise ValueError(
                f"{' '.join(command[:1]) or 'nothing'} is no command of visor_jax: "
                "give one behind --, e.g. -- visor_jax.generate --checkpoint=RUN ..."
            )
        starts = time_starts(command, options.starts, options.until)
    print(f"{machine_description()}: {' '.join(command)}")
    print(table(starts))


if __name__ == "__main__":
    command_line.run(main)
