"""`jax.jit` for processes that live long: only so many programs are kept.

jax keeps every program that a function was ever compiled to. A process that meets more
and more shapes runs out of memory with them, on a CPU of memory maps first, of which a
process may have 65,530 (Linux) and a program takes ten or more. Here every set of
static arguments and shapes is a `jax.jit` of its own; the longest unused goes, and what
XLA compiled for it goes with it. Asked for again, it is compiled again.
"""

import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax

from visor_jax.runtime.device_cache import Held

# Programs of all functions of this process together.
MOST = 256
# Left out when programs are told apart: they follow from the model.
_PARAMS = "params"

_logger = logging.getLogger(__name__)
_lock = threading.RLock()


class ProgramCount:
    """Says how many programs were let go, ever more rarely: after 1, 2, 4, 8, ..."""

    def __init__(self, most: int, log: Callable[[str], None]) -> None:
        """Starts at none. most: programs that are kept."""
        self.let_go = 0
        self._most, self._log = most, log

    def add(self, key: Hashable) -> None:
        """Counts a program that was let go."""
        del key
        self.let_go += 1
        if self.let_go.bit_count() == 1:
            self._log(
                f"{self.let_go} compiled programs were let go so far: {self._most} are "
                "kept, and one that is needed again is compiled again"
            )


_count = ProgramCount(MOST, _logger.info)
_programs: Held[Hashable, Callable[..., Any]] = Held(
    0, most=MOST, let_go=lambda key: _count.add(key)
)


# Of a call's arguments that are not static, by name: the context that it runs in.
Context = Callable[[Mapping[str, Any]], contextlib.AbstractContextManager[None]]


def bounded_jit(
    *,
    static_argnames: Sequence[str] = (),
    context: Context = lambda given: contextlib.nullcontext(),
) -> Callable[[Callable[..., Any]], "BoundedJit"]:
    """Returns a decorator: `jax.jit` with these static arguments, bounded in number.

    context: that every call is made in, and its program is traced and compiled in.
    """
    return lambda function: BoundedJit(function, tuple(static_argnames), context)


class BoundedJit:
    """A function whose programs count against the bound of the process."""

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnames: tuple[str, ...],
        context: Context,
    ) -> None:
        """Compiles nothing yet."""
        functools.update_wrapper(self, function)
        self._function, self._static_argnames = function, static_argnames
        self._context, self._signature = context, inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the function returns, from a program that is kept or new."""
        given = dict(self._signature.bind(*args, **kwargs).arguments)
        static = {name: given.pop(name) for name in self._static_argnames}
        told_apart = {k: v for k, v in given.items() if k != _PARAMS}
        leaves, structure = jax.tree.flatten(told_apart)
        shapes = tuple(_shape_of(leaf) for leaf in leaves)
        key = (self, tuple(static.items()), structure, shapes)
        with _lock:
            program = _programs.get(key)
            if program is None:
                program = _programs.put(key, 0, lambda: self._jitted(static))
        with self._context(given):
            return program(**given)

    def cache_size(self) -> int:
        """Returns how many programs of this function are kept."""
        with _lock:
            return sum(key[0] is self for key, _ in _programs.items())

    def clear_cache(self) -> None:
        """Lets the programs of this function go."""
        with _lock:
            for key in [key for key, _ in _programs.items() if key[0] is self]:
                _programs.remove(key)

    def _jitted(self, static: dict[str, Any]) -> Callable[..., Any]:
        def run(**given: Any) -> Any:
            return self._function(**given, **static)

        run.__name__ = run.__qualname__ = self._function.__name__
        return jax.jit(run)


def _shape_of(leaf: Any) -> Hashable:
    shape = getattr(leaf, "shape", None)
    return type(leaf) if shape is None else (shape, leaf.dtype)
