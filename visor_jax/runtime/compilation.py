"""Compiles a program at a known moment and says how long it took."""

import logging
import time
from collections.abc import Callable
from typing import Any

import jax

_logger = logging.getLogger(__name__)


def logged_compile(
    name: str,
    jitted_fn: Callable[..., Any],
    *args: Any,
    log: Callable[[str], None] = _logger.info,
    record: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> jax.stages.Compiled:
    """Returns `jitted_fn` compiled for these arguments.

    The result takes the same arguments without the static ones, donates what
    `jitted_fn` donates, and refuses other shapes, dtypes or shardings instead of
    compiling again.

    Args:
      name: what the log calls it.
      jitted_fn: a `jax.jit` function.
      *args: example arguments: arrays or `jax.ShapeDtypeStruct`s; none is donated here.
      log: gets "compiled <name> in 3.2 s".
      record: gets the name and the seconds, e.g. for timing.jsonl.
      **kwargs: more example arguments.
    """
    start = time.perf_counter()
    compiled = jitted_fn.lower(*args, **kwargs).compile()
    seconds = time.perf_counter() - start
    log(f"compiled {name} in {seconds:.1f} s")
    if record is not None:
        record(name, seconds)
    return compiled
