"""Runs a command from a notebook: its lines as they come, none of a terminal's bars.

    run_command("visor_jax.timing.step", "--config=configs/universal.py:demo")

What `!python -m ...` does, but for two things: that has a terminal, on which progress
is drawn again and again, a line of output each time; and it forks a process in which
jax has threads, about which Python warns.
"""

import os
import signal
import subprocess

from visor_jax.notebook.attended import attended


class CommandFailed(Exception):
    """The command ended with an error; its own words stand above."""


def run_command(module: str, *flags: str, **environment: str) -> None:
    """Runs `python -m MODULE FLAGS` and prints what it prints; ends with the kernel.

    Args:
      environment: variables of the command's, beside those of this process.

    Raises:
      CommandFailed: if the command fails.
      KeyboardInterrupt: if the cell was interrupted, once the command has ended.
    """
    with subprocess.Popen(
        [*attended(module), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
    if process.returncode:
        raise CommandFailed(f"{module} ended with code {process.returncode}.")
