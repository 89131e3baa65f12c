"""A disk that takes no more: whoever writes names the file, whoever started is told.

An `OSError` of `open` names its file, one of `write` does not.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

# Full, over a quota or a limit, read-only, or broken: nothing that the code could mend.
_CODES = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)
# How native writers say the same.
_TEXTS = tuple(os.strerror(code).lower() for code in _CODES)


@contextlib.contextmanager
def naming(
    file: str | os.PathLike[str], *, instead_of: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Gives an `OSError` from inside the file's name, where it has none.

    instead_of: a temporary name, which says nothing to whoever reads the error.
    """
    unknown = (None, None if instead_of is None else os.fspath(instead_of))
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in unknown:
            error.filename = os.fspath(file)
        raise


def refusal_of(error: BaseException) -> str | None:
    """Returns what the disk says, e.g. "No space left on device"; None if it is silent.

    Asks the error itself, those that it came from, and texts of native writers.
    """
    for each in causes(error):
        if isinstance(each, OSError) and each.errno in _CODES:
            return os.strerror(each.errno)
        if not isinstance(each, OSError):
            text = str(each).lower()
            for code, said in zip(_CODES, _TEXTS, strict=True):
                if said in text:
                    return os.strerror(code)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error, what it was raised from or in the course of, and so on."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
