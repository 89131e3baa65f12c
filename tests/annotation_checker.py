"""The type checker that the import hook of `tests/conftest.py` puts on the package."""

import functools
from collections.abc import Callable
from typing import Any

import beartype
import jax

# An int is good where a float is asked for, as everywhere in Python.
_typechecked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function; if it speaks of shapes, all its annotations are checked.

    A struct is a pytree, and what is rebuilt from one need not hold arrays (shapes,
    shardings, flags): its fields are checked only if all of them are jax arrays.
    """
    if "jaxtyping" not in str(function.__annotations__):
        return function
    strict = _typechecked(function)
    if function.__name__ != "__init__":
        return strict

    @functools.wraps(function)
    def check_arrays(self: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if leaves and all(isinstance(x, jax.Array) for x in leaves):
            return strict(self, *args, **kwargs)
        return kwargs.get("output")

    return check_arrays
