"""What the entry points share: a user's mistake is one line, a bug keeps its traceback.

Exit codes: 0 done, 2 the user's mistake, 130 interrupted, 1 anything else.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from visor_jax.commands import compilation_flags
from visor_jax.runtime.user_error import UserError, as_user_errors, describe

# `--help` lists flags that are declared here with those of the command.
flags.disclaim_key_flags()

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130

# Raised by absl and ml_collections for flags and config overrides they cannot use.
_FLAG_ERRORS = (flags.Error, AttributeError, LookupError, TypeError, ValueError)


def run(main: Callable[[list[str]], object]) -> NoReturn:
    """Parses the flags, calls `main` with what is left of argv, and exits.

    All commands have the flag --compilation_cache, which is heeded before `main`.
    Unusable flags (absl's and ml_collections config files and overrides) and stray
    arguments end with one line on stderr and exit code 2; so does a `UserError`, from
    wherever inside `main`. Any other exception keeps its traceback.
    """
    _quieten_libraries()
    compilation_flags.define_compilation_flags()
    try:
        app.run(main, flags_parser=_parse_flags)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


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


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Exits with the code after printing `error: message` to stderr."""
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


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
    if len(rest) > 1:
        fail(f"unexpected arguments {rest[1:]}: every option is written --name=value.")
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    compilation_flags.keep_programs(flags.FLAGS)
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


class _PlainHandler(logging.Handler):
    """Prints the bare message to what is stderr now; a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _quieten_libraries() -> None:
    """Leaves stderr to this project: libraries speak only of errors."""
    # Read by the native libraries when they start, so before any device is touched.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    own = logging.getLogger("visor_jax")
    own.handlers[:] = [_PlainHandler()]
    own.setLevel(logging.INFO)
    own.propagate = False
