"""Figures that a change of the code's form must leave as they are, to the last bit.

    python -m tests.golden_figures make --out=FILE.json         # at the commit before
    python -m tests.golden_figures compare --with=FILE.json     # at the commit after

Losses, digests of parameters, reports and answers of small runs, a few minutes on two
cores. `compare` makes them again and exits with 1 after a line for every difference.
They are exact on one machine only, because sums take another order on other processors
and other numbers of cores: make them at the commit before, compare at the commit after,
and keep the file out of the repository.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from tests.golden_parts import PARTS, figures_of

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "transformers", "Pillow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if something differs."""
    options = _options(arguments)
    before: dict[str, Any] = {}
    if options.do == "compare":
        before = json.loads(options.before.read_text())
        unknown = set(options.parts or ()) - before["figures"].keys()
        if unknown:
            raise SystemExit(f"{options.before} has no figures of {sorted(unknown)}.")
    parts = options.parts or list(before.get("figures", PARTS))
    found = make(parts, options.workdir)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"figures: {options.out}")
    return compare(before, found) if options.do == "compare" else 0


def make(parts: Sequence[str], workdir: Path | None) -> dict[str, Any]:
    """Returns {"made": on what, "figures": {part: its figures}}.

    workdir: where a folder with all runs is made and stays; None to keep nothing.
    """
    jax.config.update("jax_platforms", "cpu")
    with _new_folder(workdir) as folder:
        return {"made": _circumstances(), "figures": figures_of(parts, folder)}


def compare(before: dict[str, Any], now: dict[str, Any]) -> int:
    """Prints what differs and returns the exit code."""
    for line in differences(before["made"], now["made"]):
        print(f"not made alike, so that anything may differ: {line}")
    names = list(now["figures"])
    found = list(differences({n: before["figures"][n] for n in names}, now["figures"]))
    for line in found:
        print(f"DIFFERS {line}")
    count = sum(1 for _ in values(now["figures"]))
    print(f"{', '.join(names)}: {len(found)} differences in {count} values")
    return 1 if found else 0


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yields a line for every value that is not the same, bit for bit."""
    if isinstance(before, dict) and isinstance(now, dict):
        absent = "(absent)"
        for key in dict.fromkeys([*before, *now]):
            pair = before.get(key, absent), now.get(key, absent)
            yield from differences(*pair, f"{where}.{key}" if where else key)
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            yield f"{where}: {len(before)} values before, {len(now)} now"
        for i, pair in enumerate(zip(before, now, strict=False)):
            yield from differences(*pair, f"{where}[{i}]")
    # As text, which is exact for floats and takes "nan" for itself.
    elif json.dumps(before) != json.dumps(now):
        yield f"{where}: {json.dumps(before)} before, {json.dumps(now)} now"


def values(figures: Any) -> Iterator[Any]:
    """Yields all that is compared."""
    if isinstance(figures, dict | list):
        inner = figures.values() if isinstance(figures, dict) else figures
        for each in inner:
            yield from values(each)
    else:
        yield figures


def _circumstances() -> dict[str, str]:
    """Returns what figures depend on beside the code."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found |= {"python": platform.python_version(), "cores": str(os.cpu_count())}
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.exists() else ""
    models = {line for line in text.splitlines() if line.startswith("model name")}
    found["processor"] = ", ".join(sorted(models)) or platform.processor()
    chosen = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    return found | chosen


@contextlib.contextmanager
def _new_folder(workdir: Path | None) -> Iterator[Path]:
    """Yields an empty folder: a run that is found goes on instead of being made."""
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="golden_", dir=workdir)).absolute()
    try:
        yield folder
    finally:
        if workdir is None:
            shutil.rmtree(folder, ignore_errors=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden_figures", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="do", required=True)
    for name in ("make", "compare"):
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument(
            "--out", type=Path, required=name == "make", help="file of the figures"
        )
        command.add_argument(
            "--parts", type=_parts, help=f"some of {','.join(PARTS)}; default: all"
        )
        command.add_argument(
            "--workdir", type=Path, help="keeps the runs; default: a temporary folder"
        )
        if name == "compare":
            command.add_argument(
                "--with", dest="before", type=Path, required=True, help="made before"
            )
    options = parser.parse_args(arguments)
    # Better now than after minutes.
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out={options.out}: there is no such folder.")
    return options


def _parts(text: str) -> list[str]:
    """Returns the parts of a list with commas."""
    parts = text.split(",")
    unknown = sorted(set(parts) - PARTS.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"no parts {unknown}: {list(PARTS)}")
    return parts


if __name__ == "__main__":
    sys.exit(main())
