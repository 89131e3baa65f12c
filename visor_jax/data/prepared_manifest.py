"""The manifest of prepared data: which files there are, and what a row looks like."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.batch import Batch

FORMAT = 1
MANIFEST = "manifest.json"

_WRITER = "visor_jax.data.prepared.write_prepared"
_FIELDS = Batch.__dataclass_fields__
_REQUIRED = {name for name, f in _FIELDS.items() if f.default is not None}

# Shape (without the batch axis) and dtype of every field.
Specs = dict[str, tuple[tuple[int, ...], str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file: its name in the directory, its rows, its size on disk."""

    file: str
    rows: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of prepared data holds."""

    directory: Path
    rows: int
    shards: tuple[Shard, ...]
    fields: Specs


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """Returns what the directory holds, after looking at every shard's size.

    Raises:
      ValueError: if the directory holds no prepared data set, one of another format or
        of other fields than `Batch` has, or if shards are missing or incomplete.
    """
    directory = Path(directory).absolute()
    file = directory / MANIFEST
    if not file.is_file():
        raise ValueError(
            f"{directory} is not a prepared data set, or its preparation was "
            f"interrupted: it holds no {MANIFEST}. Prepare it with {_WRITER}."
        )
    try:
        manifest = _parse(directory, json.loads(file.read_text()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} cannot be used: {error!r} Delete it; prepare again with {_WRITER}."
        ) from error
    problems = [p for shard in manifest.shards if (p := _problem(directory, shard))]
    if problems:
        raise ValueError(
            f"{directory} is incomplete: {'; '.join(problems)}. Copy these files "
            "again, or delete the directory and prepare the data again."
        )
    return manifest


def write_manifest(directory: Path, shards: Sequence[Shard], fields: Specs) -> None:
    """Writes the manifest in one step, after everything else."""
    content = {
        "format": FORMAT,
        "rows": sum(shard.rows for shard in shards),
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "fields": {k: {"shape": s, "dtype": d} for k, (s, d) in fields.items()},
    }
    temporary = directory / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(directory / MANIFEST)


def check_fields(fields: Specs) -> None:
    """Raises ValueError unless these are fields of `Batch`, the required ones too."""
    unknown, missing = (
        sorted(fields.keys() - _FIELDS),
        sorted(_REQUIRED - fields.keys()),
    )
    if unknown or missing:
        raise ValueError(f"not the fields of Batch: {unknown=}, {missing=}.")


def _parse(directory: Path, content: Mapping[str, Any]) -> Manifest:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']}, not {FORMAT}.")
    fields = content["fields"].items()
    manifest = Manifest(
        directory=directory,
        rows=content["rows"],
        shards=tuple(Shard(**shard) for shard in content["shards"]),
        fields={k: (tuple(spec["shape"]), spec["dtype"]) for k, spec in fields},
    )
    check_fields(manifest.fields)
    in_shards = sum(shard.rows for shard in manifest.shards)
    if not manifest.rows == in_shards > 0:
        raise ValueError(f"rows={manifest.rows}, and the shards have {in_shards}.")
    return manifest


def _problem(directory: Path, shard: Shard) -> str | None:
    file = directory / shard.file
    if not file.is_file():
        return f"{shard.file} is missing"
    has, wanted = file.stat().st_size, shard.bytes
    return None if has == wanted else f"{shard.file} has {has} of {wanted} bytes"
