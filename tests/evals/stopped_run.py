"""`python -m tests.evals.stopped_run MOMENT SIGNAL FLAGS...`: a run hit by a signal.

    loading      when the network is to be loaded, before anything is asked
    answering    in the middle of the third line; the first two are whole
    between      when the first benchmark is answered, before the second

It signals itself, so that the moment is always the same one; SIGINT, as Ctrl-C sends
it, lets the line be written to its end.
"""

import os
import runpy
import signal
import sys
from typing import Any

from visor_jax.inference.files.answer_file import AnswerFile
from visor_jax.inference.loading import load

_WHOLE_LINES = 2


def _hit(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _hit_while_loading(number: signal.Signals) -> None:
    loads = load.load

    def load_and_hit(*arguments: Any, **options: Any) -> Any:
        _hit(number)
        return loads(*arguments, **options)

    load.load = load_and_hit


def _hit_while_answering(number: signal.Signals) -> None:
    writes, written = AnswerFile.write, []

    def write_and_hit(file: AnswerFile, record: dict[str, Any]) -> None:
        written.append(record)
        if len(written) == _WHOLE_LINES + 1:
            if number == signal.SIGKILL:
                file._file.write(b'{"benchmark": "half a li')
                file._file.flush()
            _hit(number)
        writes(file, record)

    AnswerFile.write = write_and_hit


def _hit_between_benchmarks(number: signal.Signals) -> None:
    closes, closed = AnswerFile.__exit__, []

    def close_and_hit(file: AnswerFile, *error: Any) -> None:
        closes(file, *error)
        closed.append(file)
        if len(closed) == 1:
            _hit(number)

    AnswerFile.__exit__ = close_and_hit


MOMENTS = {
    "loading": _hit_while_loading,
    "answering": _hit_while_answering,
    "between": _hit_between_benchmarks,
}

if __name__ == "__main__":
    moment, name, *flags = sys.argv[1:]
    MOMENTS[moment](signal.Signals[name])
    sys.argv = ["evaluate", *flags]
    runpy.run_module("visor_jax.evaluate", run_name="__main__", alter_sys=True)
