"""Writes one shard: runs in a worker process, knows nothing of the others.

A shard is finished when its report is there (`.conversion/00003.json`). The report
comes last and in one step, so that a conversion that was stopped goes on with the
shards that have none.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from visor_jax.data.conversations.converting.item_checks import (
    BadItemError,
    ImageFolder,
    read_item,
)
from visor_jax.data.conversations.converting.sources import Piece
from visor_jax.data.conversations.manifest import describe_file
from visor_jax.data.conversations.raw_sample import RawSample, images_to_bytes
from visor_jax.runtime import atomic_write

REPORTS = ".conversion"

# Single records are read at random, so each is compressed by itself; pictures are
# compressed already.
_TEXT_OPTIONS, _IMAGE_OPTIONS = "group_size:1,zstd:3", "group_size:1,uncompressed"

Report = dict[str, Any]


def finished_report(directory: Path, number: int) -> Report | None:
    """Returns the report of a shard that is finished, None for another."""
    file = _report_file(directory, number)
    return json.loads(file.read_text()) if file.is_file() else None


def write_shard(
    directory: Path, number: int, piece: Piece, image_folder: ImageFolder | None
) -> Report:
    """Returns the report of a shard after writing it.

    The report: "shard" as in the manifest (None if no entry is good), "entries", "bad"
    (the lines of bad_items.jsonl), "facts" (sums over the shard).
    """
    bad: list[dict[str, Any]] = []
    facts = {"text_only": 0, "images": 0, "image_bytes": 0, "image_sizes": []}
    facts["special_text"] = 0
    samples = _samples(piece, image_folder, bad)
    rows = _write(directory, number, samples, facts)
    shard = None
    if rows:
        shard = {
            "number": number,
            "rows": rows,
            "texts": vars(describe_file(directory / _file("texts", number))),
            "images": vars(describe_file(directory / _file("images", number))),
        }
    report = {"shard": shard, "entries": piece.count, "bad": bad, "facts": facts}
    atomic_write.write_json(_report_file(directory, number), report)
    return report


def _samples(
    piece: Piece, image_folder: ImageFolder | None, bad: list[dict[str, Any]]
) -> Iterator[RawSample]:
    """Yields the good entries; puts the others into `bad`."""
    for entry, item in piece.items():
        try:
            yield read_item(item, image_folder)
        except BadItemError as error:
            name = item.get("id") if isinstance(item, dict) else None
            line = {"file": piece.file, "entry": entry, "id": _plain(name)}
            bad.append(line | {"reason": error.reason, "detail": _plain(error.detail)})


def _plain(value: Any) -> str | int | None:
    if value is None or isinstance(value, int):
        return value
    return str(value).encode(errors="replace").decode()


def _write(
    directory: Path, number: int, samples: Iterator[RawSample], facts: dict[str, Any]
) -> int:
    """Returns the number of rows; adds to the facts."""
    files = [directory / _file(kind, number) for kind in ("texts", "images")]
    for file in files:
        # Of a conversion that was stopped; these files may be large.
        atomic_write.remove_unfinished(file)
    rows = 0
    with (
        atomic_write.replacing(files[0]) as texts_file,
        atomic_write.replacing(files[1]) as images_file,
        _record_file(texts_file, _TEXT_OPTIONS) as texts,
        _record_file(images_file, _IMAGE_OPTIONS) as images,
    ):
        for sample in samples:
            texts.write(sample.conversation.to_bytes())
            images.write(images_to_bytes(sample.images))
            _count(sample, facts)
            rows += 1
    if not rows:
        for file in files:
            file.unlink()
    return rows


def _record_file(
    file: Path, options: str
) -> contextlib.AbstractContextManager[ArrayRecordWriter]:
    return contextlib.closing(ArrayRecordWriter(str(file), options))


def _count(sample: RawSample, facts: dict[str, Any]) -> None:
    facts["text_only"] += not sample.images
    facts["special_text"] += sample.conversation.has_special_text
    facts["images"] += len(sample.images)
    facts["image_bytes"] += sum(map(len, sample.images))
    by_area = sorted(
        [*facts["image_sizes"], *sample.conversation.image_sizes],
        key=lambda size: (size[0] * size[1], size),
    )
    # The smallest and the largest are all that is kept.
    facts["image_sizes"] = by_area[:1] + by_area[1:][-1:]


def _file(kind: str, number: int) -> str:
    return f"{kind}-{number:05d}.array_record"


def _report_file(directory: Path, number: int) -> Path:
    return directory / REPORTS / f"{number:05d}.json"
