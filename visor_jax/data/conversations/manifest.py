"""The manifest of converted data: which shards there are, and what is in them.

directory/
  manifest.json                    written last, in one step
  texts-00000.array_record         the conversations of a shard
  images-00000.array_record        the images, row for row
  bad_items.jsonl                  entries of the sources that are no samples
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.runtime import atomic_write

FORMAT = 1
MANIFEST = "manifest.json"
BAD_ITEMS = "bad_items.jsonl"
_KIND = "conversations"
_COMMAND = "python -m visor_jax.convert.data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One file: its name in the directory, its size, its SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows that were converted together, in two files."""

    number: int
    rows: int
    texts: ShardFile
    images: ShardFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of converted data holds.

    checksum: SHA-256 of the manifest, and through it of all shards. facts: whatever
    else it says, for people.
    """

    directory: Path
    samples: int
    shards: tuple[Shard, ...]
    checksum: str
    facts: dict[str, Any]


def is_converted(directory: str | os.PathLike[str]) -> bool:
    """Returns whether a finished conversion lies there."""
    return (Path(directory) / MANIFEST).is_file()


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """Returns what the directory holds, after looking at every shard's size.

    Raises:
      ValueError: if there is no finished conversion, or one of another format, or files
        are missing or incomplete.
    """
    directory = Path(directory).absolute()
    file = directory / MANIFEST
    if not file.is_file():
        raise ValueError(
            f"{directory} is no converted data set, or its conversion was interrupted: "
            f"it holds no {MANIFEST}. Convert with {_COMMAND}."
        )
    content = file.read_bytes()
    try:
        manifest = _parse(directory, content)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{file} cannot be used: {error!r}. Convert again with {_COMMAND}."
        ) from error
    problems = [
        problem
        for shard in manifest.shards
        for part in (shard.texts, shard.images)
        if (problem := _problem(directory, part))
    ]
    if problems:
        raise ValueError(
            f"{directory} is incomplete: {'; '.join(problems)}. Copy these files "
            "again, or convert again."
        )
    return manifest


def verify_shards(manifest: Manifest, shard: Shard) -> list[str]:
    """Returns the files of the shard whose content is not what was written."""
    return [
        part.file
        for part in (shard.texts, shard.images)
        if describe_file(manifest.directory / part.file) != part
    ]


def describe_file(file: Path) -> ShardFile:
    """Returns name, size and SHA-256 of a file."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return ShardFile(file=file.name, bytes=file.stat().st_size, sha256=digest)


def write_manifest(
    directory: Path, shards: list[dict[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Writes the manifest, after everything else."""
    content = {
        "format": FORMAT,
        "kind": _KIND,
        "samples": sum(shard["rows"] for shard in shards),
        **facts,
        "shards": shards,
    }
    atomic_write.write_json(directory / MANIFEST, content)


def _parse(directory: Path, content: bytes) -> Manifest:
    fields = json.loads(content)
    found = fields["kind"], fields["format"]
    if found != (_KIND, FORMAT):
        raise ValueError(f"it is {found}, not {(_KIND, FORMAT)}")
    shards = tuple(
        Shard(
            number=shard["number"],
            rows=shard["rows"],
            texts=ShardFile(**shard["texts"]),
            images=ShardFile(**shard["images"]),
        )
        for shard in fields["shards"]
    )
    names = [part.file for shard in shards for part in (shard.texts, shard.images)]
    if odd := [name for name in names if Path(name).name != name]:
        raise ValueError(f"it names {odd}, which are no files of it")
    known = {"format", "kind", "samples", "shards"}
    manifest = Manifest(
        directory=directory,
        samples=fields["samples"],
        shards=shards,
        checksum=hashlib.sha256(content).hexdigest(),
        facts={k: v for k, v in fields.items() if k not in known},
    )
    in_shards = sum(shard.rows for shard in shards)
    if not manifest.samples == in_shards > 0:
        raise ValueError(f"samples={manifest.samples}, and the shards have {in_shards}")
    return manifest


def _problem(directory: Path, part: ShardFile) -> str | None:
    file = directory / part.file
    try:
        is_missing = not file.is_file()
    except (OSError, ValueError) as error:
        return f"{part.file!r:.80} is no name of a file ({error!s:.80})"
    if is_missing:
        return f"{part.file} is missing"
    has, wanted = file.stat().st_size, part.bytes
    return None if has == wanted else f"{part.file} has {has} of {wanted} bytes"
