"""What a caller gave: numbers that are checked, and how errors show a value.

Numbers of NumPy are numbers like any other, True and "2" are none.
"""

import numbers
import operator
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")

_LONGEST = 80
# Seeds that jax.random.key takes.
LEAST_SEED, MOST_SEED = -(2**63), 2**63 - 1


class _Short(reprlib.Repr):
    """Of texts and bytes both ends, whatever holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_bytes(self, value: bytes, level: int) -> str:
        del level
        return f"{value[:12]!r}..." if len(value) > 12 else repr(value)


def shown(value: Any) -> str:
    """Returns the value as an error shows it: never a whole picture or text."""
    text = _Short().repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def whole_number(
    value: Any, name: str, *, least: int | None = None, most: int | None = None
) -> int:
    """Returns the value as an int.

    Args:
      name: what errors call it. least, most: None for no limit.

    Raises:
      ValueError: for anything but a whole number within the limits.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(
            f"{name}={shown(value)} is no whole number: give an int."
        ) from None
    if least is not None and number < least:
        raise ValueError(f"{name}={number} must be at least {least}.")
    if most is not None and number > most:
        raise ValueError(f"{name}={number} must be at most {most}.")
    return number


def instance_of(value: Any, kind: type[Kind], name: str, remedy: str) -> Kind:
    """Returns the value.

    Args:
      name: what errors call it. remedy: what to write instead, without a full stop.

    Raises:
      ValueError: for anything that is not of this kind.
    """
    if isinstance(value, kind):
        return value
    raise ValueError(f"{name}={shown(value)} is no {kind.__name__}: {remedy}.")


def iterator_of(value: Any) -> Iterator[Any] | None:
    """Returns what gives the value's elements; None for texts and what has none."""
    if isinstance(value, str | bytes | Mapping):
        return None
    try:
        return iter(value)
    except TypeError:
        return None


def finite_number(value: Any, name: str) -> float:
    """Returns the value as a float.

    Raises:
      ValueError: for anything but a finite number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else float("nan")
    except OverflowError:
        number = float("inf")
    if number - number != 0:
        raise ValueError(f"{name}={shown(value)} is no finite number: give a float.")
    return number


def confidence_threshold(threshold: Any) -> float:
    """Returns a threshold as a number. Raises ValueError for one outside (0, 1]."""
    is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
    if is_number and 0 < threshold <= 1:
        return float(threshold)
    raise ValueError(
        f"threshold={shown(threshold)} must lie above 0 and up to 1: it is a "
        "confidence, and answers below it are not kept."
    )
