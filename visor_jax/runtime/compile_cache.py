"""Where compiled programs are kept from one process to the next.

jax does the keeping: a file for each program, the longest unused goes where all of them
take too much, and a lock on the folder lets several processes use it at once. Here is
what jax leaves open: which folder, what a process that was killed left half written,
and that no fault of a folder ends a program that could run without it.
"""

import contextlib
import hashlib
import logging
import os
import platform
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import filelock
import jax

# Of a folder, unless JAX_COMPILATION_CACHE_MAX_SIZE says another number.
MOST_BYTES = 2_000_000_000
# As jax names its files: the lock, a program, and when it was used last.
_LOCK, _PROGRAM, _USED = ".lockfile", "-cache", "-atime"
_LOCK_SECONDS = 5
_FAULT = "Error (reading|writing) persistent compilation cache"

_logger = logging.getLogger(__name__)


def user_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder for programs in the user's cache folder.

    Programs fit the processors that they were compiled for: a home folder that several
    kinds of machines share has a folder for each.
    """
    return user_cache(environment) / "programs" / _machine()


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns this project's folder in the user's cache folder."""
    cache = environment.get("XDG_CACHE_HOME", "")
    # As the standard says, a path that is not absolute is to be ignored.
    base = Path(cache) if os.path.isabs(cache) else Path("~/.cache")
    # Where no home folder is known "~" stays, which `keep_programs` refuses in words.
    return Path(os.path.expanduser(base)) / "visor_jax"


def keep_programs(folder: Path, *, least_seconds: float = 0.0) -> bool:
    """Lets compiled programs be kept in a folder, where the next process finds them.

    Programs fit one machine type and version of jax; others compile again. Changes the
    configuration of jax for the whole process. A folder that cannot be used is a
    warning, and nothing is kept.

    Args:
      least_seconds: programs that compile faster are not kept.

    Returns:
      Whether programs are kept.
    """
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
            _check_writable(folder)
            _tidy(folder)
    # The last: no home folder is known, and a file system knows no locks.
    except (OSError, RuntimeError, NotImplementedError) as error:
        _logger.warning(
            "warning: compiled programs are not kept in %s (%s): every start compiles "
            "them again; --compilation_cache=DIR names another folder",
            folder,
            error,
        )
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    if jax.config.jax_compilation_cache_max_size == -1:
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    return True


def describe_kept() -> str:
    """Returns where programs are kept and how many there are, for people."""
    folder = jax.config.jax_compilation_cache_dir
    if folder is None or not jax.config.jax_enable_compilation_cache:
        return "compiled programs are not kept"
    with contextlib.suppress(OSError):
        count = sum(1 for _ in Path(folder).glob(f"*{_PROGRAM}"))
        return f"compiled programs in {folder} ({count} so far)"
    return f"compiled programs in {folder}"


def one_warning_about_faults() -> None:
    """Makes one line of what jax would say of every program that is not kept.

    For commands: warnings of the whole process go through it. A full disk is a fault.
    """
    show, is_said = warnings.showwarning, []

    def show_once(message: Warning | str, *where: object, **more: object) -> None:
        if not re.match(_FAULT, str(message)):
            show(message, *where, **more)
        elif not is_said:
            is_said.append(True)
            text = str(message).splitlines()[0]
            _logger.warning("warning: %s; programs are compiled instead", text)

    warnings.filterwarnings("always", _FAULT)
    warnings.showwarning = show_once


def _check_writable(folder: Path) -> None:
    """Raises OSError unless something can be written there, on a full disk too."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(bytes(4096))
    finally:
        probe.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Removes programs that were being written when a process ended.

    jax notes last when a program was used, and would fail at one without that.
    """
    for program in folder.glob(f"*{_PROGRAM}"):
        used = program.with_name(program.name.removesuffix(_PROGRAM) + _USED)
        if not used.exists():
            with contextlib.suppress(FileNotFoundError):
                program.unlink()


def _machine() -> str:
    """Returns a short name of the processors of this machine."""
    found = hashlib.blake2b(digest_size=4)
    found.update(f"{platform.system()} {platform.machine()}".encode())
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            # What instructions there are, on x86 and on ARM.
            if line.startswith(("model name", "flags", "Features")):
                found.update(line.encode())
            elif not line:
                break
    return f"{platform.machine()}-{found.hexdigest()}"
