"""What the entry points share: a user's mistake is one line, a bug keeps its traceback.

A command declares its flags, calls `begin`, loads its libraries, which takes seconds,
and calls `run`:

    if __name__ == "__main__":
        command_line.begin(define_flags)

    import jax  # and whatever else takes its time

    if __name__ == "__main__":
        command_line.run(main)

Exit codes: 0 done, 2 the user's mistake, 130 interrupted, 141 nobody reads what it
prints, 1 anything else. What counts as known, and is told in one line: `failures`.
"""

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from visor_jax.commands import compilation_flags, failures, help_text, terminal
from visor_jax.commands.failures import FAILED, USER_ERROR
from visor_jax.runtime.user_error import UserError, as_user_errors, describe

if TYPE_CHECKING:
    from visor_jax.runtime.peers import Peers

__all__ = [
    *("FAILED", "INTERRUPTED", "USER_ERROR"),
    *("begin", "fail", "leave_together", "run", "user_errors"),
]

INTERRUPTED = 130
# What a command's module calls its arguments that are no flags; most have none.
ARGUMENTS = "ARGUMENTS"
# What a module has that runs without jax.
LIGHT = "LIGHT"

# What flags leave of argv, once `begin` has read them.
_rest: list[str] = []

# Raised by absl and ml_collections for flags and config overrides they cannot use.
_FLAG_ERRORS = (flags.Error, AttributeError, LookupError, TypeError, ValueError)


def begin(define_flags: Callable[[], object]) -> None:
    """Declares the command's flags and reads them, or prints its help and exits.

    Call it before anything heavy is imported: help and mistakes in flags are answered
    at once. Unusable flags (absl's and ml_collections config files and overrides) and
    stray arguments end with one line on stderr and exit code 2; a module that says what
    its ARGUMENTS are takes some beside its flags.
    """
    # What is imported from here on stays: nothing of it is garbage (see `run`).
    gc.disable()
    with _told_in_one_line():
        _prepare_streams()
        before = set(flags.FLAGS)
        define_flags()
        compilation_flags.define_compilation_flags()
        if help_text.is_asked_for(sys.argv[1:]):
            usage = sys.modules["__main__"].__doc__ or ""
            own = [name for name in flags.FLAGS if name not in before]
            print(help_text.help_text(usage, own), end="")
            _leave(0)
        app.define_help_flags()
        _rest[:] = _parse_flags(sys.argv)


def run(main: Callable[[list[str]], object]) -> NoReturn:
    """Calls `main` with what flags leave of argv, and exits.

    Reads the flags if `begin` has not; --compilation_cache, which all commands have, is
    heeded before `main`. A `UserError`, from wherever inside `main`, ends
    with one line on stderr and exit code 2; so does what `failures` knows, with its
    code. Any other exception keeps its traceback.
    """
    # Imports made half a million objects, which every collection would walk.
    gc.freeze()
    gc.enable()
    with _told_in_one_line():
        _prepare_streams()
        if not flags.FLAGS.is_parsed():
            compilation_flags.define_compilation_flags()
        app.run(main, flags_parser=_parsed_flags)
    _leave(0)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors about what the user gave into `error: ...` and exit code 2.

    For the part of `main` that reads inputs and builds objects; catches what
    `as_user_errors` does, and what library code says is the user's mistake.
    """
    try:
        with as_user_errors():
            yield
    except UserError as error:
        fail(str(error))


class _Failure(SystemExit):
    """An exit, and the reason that was printed."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Exits with the code after printing `error: message` to stderr.

    Other processes of the run end with the same message and code.
    """
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    raise _Failure(message, code)


def leave_together(message: str, code: int = 0) -> None:
    """Ends all processes of a run, this one first; returns if there is one only.

    message: the others print it.
    """
    if (others := _others()) is not None:
        others.leave(message, code)


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
    """Ends the command in one line where no traceback would help."""
    try:
        try:
            yield
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise _Failure("interrupted", INTERRUPTED) from None
        except Exception as error:
            if isinstance(error, BrokenPipeError) and terminal.nobody_reads():
                raise
            if (known := failures.told(error)) is not None:
                fail(*known)
            _end_with_others(error)
            raise
    except SystemExit as end:
        if end.code not in (0, None):
            code = end.code if isinstance(end.code, int) else FAILED
            message = getattr(end, "message", f"it ended with exit code {code}")
            leave_together(message, code)
        _leave(end.code)
    except BrokenPipeError:
        # Another pipe than these two, to a worker perhaps, is no reader that left.
        if not terminal.nobody_reads():
            raise
        _leave_quietly()


def _end_with_others(error: Exception) -> None:
    """Ends all processes of a run by an error that is a bug, or came of another's end.

    Returns if there is one process only.
    """
    if (others := _others()) is None:
        return
    # What breaks where another process has failed is not worth a traceback.
    if (heard := others.failure()) is not None:
        others.wait_if_following()
        fail(*heard)
    traceback.print_exception(error)
    line = traceback.format_exception_only(error)[-1].strip()
    others.leave(f"{line} (see its own output)", FAILED)


def _others() -> "Peers | None":
    # A command of one process has not even loaded it.
    module = sys.modules.get("visor_jax.runtime.peers")
    return None if module is None else module.peers()


def _leave(code: str | int | None) -> NoReturn:
    """Exits once stdout has taken everything; quietly if nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_quietly()
    sys.exit(code)


def _leave_quietly() -> NoReturn:
    terminal.stop_writing()
    sys.exit(terminal.CLOSED_PIPE)


def _prepare_streams() -> None:
    terminal.show_everything()
    terminal.quieten_libraries()


def _parsed_flags(argv: list[str]) -> list[str]:
    # Values of repeatable flags would come together from both times.
    rest = _rest or argv[:1] if flags.FLAGS.is_parsed() else _parse_flags(argv)
    if not hasattr(sys.modules["__main__"], LIGHT):
        compilation_flags.keep_programs(flags.FLAGS)
    return rest


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        _check_config_files()
    except SystemExit:
        # --help; absl would leave with 1.
        sys.exit(0)
    except SyntaxError as error:
        fail(f"{error.filename}, line {error.lineno}: {error.msg}")
    except _FLAG_ERRORS as error:
        if isinstance(error, AttributeError | LookupError) and _from_user_code(error):
            raise  # A bug in a config file: its author needs the traceback.
        fail(_flag_message(error))
    except OSError as error:
        fail(f"cannot read the config: {_last_line(error)}")
    if len(rest) > 1 and not hasattr(sys.modules["__main__"], ARGUMENTS):
        fail(f"unexpected arguments {rest[1:]}: every option is written --name=value.")
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    return rest


def _check_config_files() -> None:
    """Raises OSError if a config file could not be read.

    ml_collections hands out a stand-in then, which raises at the first use of any
    attribute: better here than in the middle of `main`.
    """
    for name in flags.FLAGS:
        getattr(flags.FLAGS[name].value, "to_dict", None)


def _flag_message(error: BaseException) -> str:
    """Returns one line; for an error inside a config file, that error's own text."""
    wrapper: BaseException | None = error
    while wrapper is not None:
        if str(wrapper).startswith("Error whilst parsing config file"):
            cause = wrapper.__context__
            if cause is not None:
                flag = str(error).split(": Error whilst", 1)[0]
                return f"{flag}: {describe(cause)}"
        wrapper = wrapper.__cause__ or wrapper.__context__
    text: object = error
    # An unknown key arrives as an error around a KeyError around the advice.
    while isinstance(text, AttributeError | LookupError) and text.args:
        text = text.args[0]
    line = " ".join(str(text).split()) or type(error).__name__
    unknown_key = isinstance(error, AttributeError | LookupError)
    return f"no such config key: {line}" if unknown_key else line


def _last_line(error: BaseException) -> str:
    return describe(error).splitlines()[-1].strip()


def _from_user_code(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module != __name__ and module.split(".")[0] not in (
            "absl",
            "ml_collections",
        ):
            return True
        traceback = traceback.tb_next
    return False
