"""Commands that stop, and save, when whoever started them is gone.

    subprocess.Popen([*attended("visor_jax.train"), *flags], stdin=subprocess.PIPE)

A notebook's kernel may be restarted or killed while its cell trains. The run would go
on without it: nobody could see or stop it, and the workdir would stay taken. Here it
holds the reading end of a pipe, which the system closes however the kernel ends, and
then does what SIGTERM asks for.
"""

import os
import runpy
import signal
import sys
import threading

_START = "from visor_jax.notebook import attended; attended.run_attended()"


def attended(module: str) -> tuple[str, ...]:
    """Returns the command that runs a module as `python -m` does, as long as its
    stdin stays open. Flags may follow."""
    return (sys.executable, "-c", _START, module)


def run_attended() -> None:
    """Runs the module that is the first argument, as the program that it is."""
    module = sys.argv.pop(1)
    threading.Thread(target=_stop_at_the_end_of_stdin, daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _stop_at_the_end_of_stdin() -> None:
    # Not by Python's stream, whose lock the end of the program would wait for.
    while os.read(0, 1024):
        pass
    # Nobody reads what is printed from here on, and saving must not end by that.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.kill(os.getpid(), signal.SIGTERM)
