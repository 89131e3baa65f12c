"""Keeps freed host memory for the next step instead of giving it back to the system."""

import ctypes
import platform

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Returns whether the C library was told to keep what is freed (glibc only).

    A step on the CPU frees and takes the same buffers again and again. By default glibc
    maps each large one anew, and the system clears every page of it: about a third of a
    step of the mini network. Call it before the first large allocation.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    wanted = {
        _ARENA_MAX: 1,
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 64 * 2**20,
    }
    return all([library.mallopt(option, value) for option, value in wanted.items()])
