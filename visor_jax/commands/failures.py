"""What ends a command without being a bug: a full disk, a device or bucket is away.

Everything here is told in one line, with what to do; anything else keeps its traceback.
"""

import errno
import os
import sys

from visor_jax.runtime import disk_errors
from visor_jax.runtime.remote.bucket import UploadError
from visor_jax.runtime.user_error import describe

FAILED = 1
USER_ERROR = 2

_FULL_DEVICE = "RESOURCE_EXHAUSTED"


def told(error: BaseException) -> tuple[str, int] | None:
    """Returns (message, exit code) of a failure that is known; None for any other."""
    if isinstance(error, UploadError):
        return str(error), FAILED
    if (message := _disk(error)) is not None:
        return message, FAILED
    if (message := _memory(error)) is not None:
        return message, FAILED
    if (message := _no_devices(error)) is not None:
        return message, USER_ERROR
    return None


def _disk(error: BaseException) -> str | None:
    """Returns what a disk refused, with the file as far as it is known."""
    said = disk_errors.refusal_of(error)
    if said is None:
        return None
    refused = error
    for each in disk_errors.causes(error):
        if isinstance(each, OSError) and each.filename is not None:
            refused = each
            break
    what = describe(refused) if isinstance(refused, OSError) else f"{said}: {refused}"
    remedy = "free space, or raise the limit or quota"
    if said == os.strerror(errno.EROFS):
        remedy = "write to another place"
    elif said == os.strerror(errno.EIO):
        remedy = "see to the disk"
    return (
        f"{_one_line(what)}: {remedy}, and run the same command again; what was "
        "written before is intact."
    )


def _memory(error: BaseException) -> str | None:
    for each in disk_errors.causes(error):
        text = str(each)
        if _FULL_DEVICE in text and type(each).__module__.startswith("jax"):
            where = "The device"
        elif isinstance(each, MemoryError):
            where = "This machine"
        else:
            continue
        return (
            f"{where} has too little memory ({_one_line(text) or 'none was left'}): "
            "ask for less at once (training: a smaller --config.data.batch_size, "
            "--config.optimizer.accumulate or a larger mesh; answers: --memory_gb, "
            "--rows), or see with python -m visor_jax.plan what a step takes."
        )
    return None


def _no_devices(error: BaseException) -> str | None:
    """Returns why jax has no devices; None if it has some or was never asked.

    jax says it in several ways, one of them an assertion without words: asking it once
    more is surer than reading texts.
    """
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, RuntimeError | AssertionError):
        return None
    if jax.distributed.is_initialized():
        return None
    try:
        jax.devices()
    except Exception as again:
        wanted = jax.config.jax_platforms
        named = f"JAX_PLATFORMS={wanted}" if wanted else "the platform that jax chose"
        said = _one_line(str(again)) or "nothing of that kind was found"
        return (
            f"jax cannot use {named} here ({said}): install jax for the device (pip "
            "install -U 'jax[tpu]' or 'jax[cuda13]') and see that no other program "
            "holds it, or unset JAX_PLATFORMS (JAX_PLATFORMS=cpu runs anywhere)."
        )
    return None


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
