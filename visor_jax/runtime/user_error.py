"""Mistakes of whoever started the program: library code raises, a command exits.

Only where something is known to come from the user is an error taken for the user's
mistake: the same ValueError elsewhere is a bug and keeps its traceback.
"""

import contextlib
from collections.abc import Iterator

# How unusable values and files show: absent, not readable or of the wrong kind.
_INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
)


class UserError(Exception):
    """A mistake of the user's; the text says which, and what to do instead."""


@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
    """Turns errors about what the user gave into `UserError`.

    For the part of a program that reads inputs and builds objects. Catches ValueError
    and the OSErrors of files that are absent, not readable or of the wrong kind.
    """
    try:
        yield
    except _INPUT_ERRORS as error:
        raise UserError(describe(error)) from error


def describe(error: BaseException) -> str:
    """Returns the text of an exception; file errors begin with the file."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error).strip() or type(error).__name__
