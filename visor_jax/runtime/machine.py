"""What this runs on and from which sources: commit, versions, machine."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "numpy",
    # They draw the pages of the embedded benchmark.
    "scikit-learn",
    "Pillow",
)


def describe_start() -> dict[str, Any]:
    """Returns when, from which sources, with which versions and on what this runs."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "time": now.isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": package_versions(),
        "machine": {
            "description": machine_description(),
            "cpu": _cpu_model(),
            "cores": num_cores(),
            "platform": jax.default_backend(),
            "devices": jax.device_count(),
            "device_kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
            "system": platform.platform(),
        },
    }


def package_versions() -> dict[str, str]:
    """Returns {package: version} of what the results depend on, Python included."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def machine_description() -> str:
    """Returns e.g. "8 x TPU v5 lite, tpu" or, on a CPU, "2 x AMD EPYC, cpu" (cores)."""
    if jax.default_backend() == "cpu":
        return f"{num_cores()} x {_cpu_model()}, cpu"
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}, {jax.default_backend()}"


def git_commit(source: str | os.PathLike[str] = __file__) -> str:
    """Returns the commit that `source` is of, with "-dirty" if tracked files differ.

    "unknown" if git does not track the file (an installed package).
    """
    source = Path(source).resolve()

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source.parent), *command],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout.strip()

    try:
        # A package installed inside some other project's repository is not of it.
        git("ls-files", "--error-unmatch", source.name)
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("-dirty" if changes else "")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown processor"


def num_cores() -> int:
    """Returns the cores of this process: in containers often fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
