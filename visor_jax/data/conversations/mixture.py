"""Which samples of which data sets a run trains on.

A mixture file (YAML or JSON) lists converted data sets, as LLaVA-OneVision does:

    datasets:
      - path: converted/ai2d              # relative to this file
      - path: converted/replay
        sampling_strategy: first:10%      # all | first:N[%] | end:N[%] | random:N[%]

A percentage is rounded up. A path may be listed twice. What is drawn at random depends
on the seed of the run and on the entry's place alone.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int

from visor_jax.data.conversations.manifest import (
    Manifest,
    is_converted,
    read_manifest,
)

_STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")
_FORMS = "all, first:N, end:N, random:N, with N a number or a percentage like 10%"
_KEYS = {"path", "sampling_strategy"}


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureEntry:
    """One data set of a mixture, and the rows of it that take part."""

    manifest: Manifest
    strategy: str
    rows: Int[np.ndarray, "n"]


def is_mixture(path: str | Path) -> bool:
    """Returns whether this is a file that a mixture can be read from."""
    return Path(path).is_file() and Path(path).suffix in (".yaml", ".yml", ".json")


def read_mixture(path: str | Path, *, seed: int) -> tuple[MixtureEntry, ...]:
    """Returns the data sets of a mixture file, or the one of a converted folder.

    Raises:
      ValueError: if there is neither, or an entry is wrong; it is named.
    """
    path = Path(path)
    if is_converted(path):
        manifest = read_manifest(path)
        return (MixtureEntry(manifest, "all", np.arange(manifest.samples)),)
    if not is_mixture(path):
        raise ValueError(
            f"{path} is neither converted data (a folder with a manifest.json, see "
            "python -m visor_jax.convert.data) nor a mixture file (.yaml or .json)."
        )
    return tuple(
        _entry(fields, number, path, seed)
        for number, fields in enumerate(_entries(path))
    )


def select(
    strategy: str, samples: int, rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """Returns the rows, in rising order, that a strategy takes of so many samples.

    Raises:
      ValueError: for another form, or for none or more samples than there are.
    """
    if strategy == "all":
        return np.arange(samples)
    found = _STRATEGY.fullmatch(strategy)
    if not found:
        raise ValueError(f"sampling_strategy {strategy!r} is not one of: {_FORMS}.")
    kind, number, percent = found.groups()
    if percent:
        count = math.ceil(Fraction(number) * samples / 100)
    elif number.isdigit():
        count = int(number)
    else:
        raise ValueError(f"{strategy!r} asks for a part of a sample: write {number}%?")
    if not 1 <= count <= samples:
        raise ValueError(
            f"{strategy!r} asks for {count} of {samples} samples: ask for 1 to "
            f"{samples}, or write 'all'."
        )
    if kind == "random":
        return np.sort(rng.permutation(samples)[:count])
    return np.arange(count) if kind == "first" else np.arange(samples - count, samples)


def _entries(path: Path) -> list[Any]:
    try:
        # JSON is YAML.
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML or JSON: {text}.") from error
    entries = content.get("datasets") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path} lists no data sets: it needs 'datasets:' with entries that have a "
            "'path'."
        )
    return entries


def _entry(fields: Any, number: int, path: Path, seed: int) -> MixtureEntry:
    name = f"{path}, entry {number + 1}"
    if not isinstance(fields, Mapping) or "path" not in fields:
        raise ValueError(f"{name} has no 'path': {fields!r:.120}.")
    unknown = sorted(map(str, set(fields) - _KEYS))
    if unknown:
        raise ValueError(
            f"{name} has unknown keys {unknown}: it takes {sorted(_KEYS)}."
        )
    strategy = str(fields.get("sampling_strategy", "all"))
    try:
        manifest = read_manifest(path.parent / str(fields["path"]))
        rng = np.random.default_rng([seed, number])
        rows = select(strategy, manifest.samples, rng)
    except ValueError as error:
        raise ValueError(f"{name} ({fields['path']}): {error}") from error
    return MixtureEntry(manifest, strategy, rows)
