"""Lets go of compiled programs before there are more than the system can map.

Linux gives a process 65,530 memory maps (`vm.max_map_count`), and a program that is
compiled for the CPU takes dozens. Whoever compiles for many networks in one process
ends without a word when they are used up: inside the compiler, by a signal.
"""

import gc
from pathlib import Path

import jax

_OWN, _MOST = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def memory_maps() -> int:
    """Returns how many this process has, 0 where the system does not say."""
    return _OWN.read_bytes().count(b"\n") if _OWN.exists() else 0


def has_room() -> bool:
    """Returns whether there are maps left for some more programs: a third of all."""
    return memory_maps() <= 2 * _allowed() // 3


def let_programs_go(most: int | None = None) -> bool:
    """Returns whether all programs of `jax.jit` were let go, for there were many.

    They are compiled again when they are called, or found in the compilation cache.

    most: memory maps that may stay; None for a third of what the system allows.
    """
    if most is None:
        most = _allowed() // 3
    if memory_maps() <= most:
        return False
    jax.clear_caches()
    gc.collect()
    return True


def _allowed() -> int:
    """Returns how many maps the system allows; where it does not say, plenty."""
    return int(_MOST.read_text()) if _MOST.exists() else 2**16
