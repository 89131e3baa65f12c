"""What a notebook runs on: versions, devices, memory."""

import importlib.metadata
import os
import platform

import jax

import visor_jax
from visor_jax.runtime.machine import num_cores

_PACKAGES = ("jax", "flax", "transformers")


def describe_runtime() -> str:
    """Returns a few lines: Python and packages, devices, memory.

    Starts jax's devices, which takes some seconds on a TPU.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    devices = jax.devices()
    first = devices[0]
    found = f"{len(devices)} x {first.device_kind} ({first.platform})"
    memory = [_gigabytes("host memory", _host_bytes())]
    limit = (first.memory_stats() or {}).get("bytes_limit")
    if limit:
        memory.insert(0, _gigabytes("memory of each device", limit))
    lines = [
        ", ".join([f"Python {platform.python_version()}", *versions]),
        f"visor_jax {visor_jax.__version__}",
        ", ".join([found, *memory, f"{num_cores()} CPU cores"]),
    ]
    if first.platform == "cpu":
        lines.append(
            "No accelerator is used. In Colab: Runtime > Change runtime type > TPU. "
            "Everything here runs on a CPU too."
        )
    return "\n".join(lines)


def _gigabytes(what: str, count: int) -> str:
    return f"{what} {count / 1e9:.1f} GB"


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
