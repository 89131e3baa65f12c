"""Numbers that callers give, and values as errors show them."""

import numpy as np
import pytest

from visor_jax.runtime.arguments import (
    finite_number,
    iterator_of,
    shown,
    whole_number,
)


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2)])
def test_whole_numbers_are_those_of_numpy_too(value):
    found = whole_number(value, "n", least=2, most=2)
    assert found == 2
    assert type(found) is int


@pytest.mark.parametrize("value", [2.0, 1.5, "2", True, None, [2], np.float32(2), 2j])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=r"n=.* is no whole number: give an int"):
        whole_number(value, "n")


def test_limits_are_named():
    with pytest.raises(ValueError, match="n=1 must be at least 2"):
        whole_number(1, "n", least=2)
    with pytest.raises(ValueError, match="n=3 must be at most 2"):
        whole_number(np.int32(3), "n", most=2)


def test_finite_numbers():
    for value in (2, 0.5, np.float32(0.5), np.int8(3)):
        assert finite_number(value, "x") == float(value)
    nan = float("nan")
    for value in (nan, float("inf"), 10**400, "1", True, None, 1j, [1.0]):
        with pytest.raises(ValueError, match=r"x=.* is no finite number"):
            finite_number(value, "x")


def test_only_what_has_elements_has_an_iterator():
    assert list(iterator_of((1, 2))) == [1, 2]
    assert list(iterator_of(x for x in "ab")) == ["a", "b"]
    for value in ("ab", b"ab", {"a": 1}, 3, None, np.array("auto")):
        assert iterator_of(value) is None


class _Broken:
    def __repr__(self):
        raise RuntimeError


def test_values_are_shown_in_a_line():
    assert shown("Hi") == "'Hi'"
    assert shown([1, None]) == "[1, None]"
    for value in ("x" * 10**7, bytes(10**7), [{"a": "x" * 10**6}] * 9, _Broken()):
        assert len(shown(value)) < 100
    assert shown(b"\x89PNG\r\n\x1a\n" * 9).startswith("b'\\x89PNG")
