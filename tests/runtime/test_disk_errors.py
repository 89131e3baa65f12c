"""A disk that takes no more, by whatever way its word arrives."""

import errno
import os

import pytest

from visor_jax.runtime.disk_errors import naming, refusal_of


@pytest.mark.parametrize("code", ["ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EIO"])
def test_a_refusal_is_found_in_errors_in_their_causes_and_in_native_texts(code):
    number = getattr(errno, code)
    said = os.strerror(number)
    assert refusal_of(OSError(number, said)) == said
    assert refusal_of(ValueError(f"INTERNAL: Failed to write /a: {said} [5]")) == said
    raised = RuntimeError("saving failed")
    raised.__cause__ = OSError(number, said)
    assert refusal_of(raised) == said
    handled = KeyError("another")
    handled.__context__ = raised
    assert refusal_of(handled) == said


def test_other_errors_are_none():
    assert refusal_of(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None
    assert refusal_of(ValueError("no space here")) is None
    looped = ValueError("a")
    looped.__context__ = KeyError("b")
    looped.__context__.__context__ = looped
    assert refusal_of(looped) is None


def test_an_error_without_a_file_gets_its_name():
    with pytest.raises(OSError, match="full") as error, naming("a.jsonl"):
        raise OSError(errno.ENOSPC, "full")
    assert error.value.filename == "a.jsonl"
    with pytest.raises(OSError, match="full") as error, naming("a.jsonl"):
        raise OSError(errno.ENOSPC, "full", "b.jsonl")
    assert error.value.filename == "b.jsonl"
    named = naming("a.jsonl", instead_of="b.jsonl")
    with pytest.raises(OSError, match="full") as error, named:
        raise OSError(errno.ENOSPC, "full", "b.jsonl")
    assert error.value.filename == "a.jsonl"
