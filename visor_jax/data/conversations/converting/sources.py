"""The sources of a conversion, cut into pieces that become one shard each.

A source is a JSON file (a list of entries), a JSONL file (one entry a line), a parquet
file, or a folder of parquet files as the Hugging Face Hub has them. A piece is small to
send to another process: of a parquet file it only says which rows.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from visor_jax.runtime.lfs_pointer import check_not_pointer

_PARQUET = ".parquet"


class Piece(Protocol):
    """Consecutive entries of one source file."""

    file: str
    count: int

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yields (number in the file, entry)."""
        ...


@dataclasses.dataclass(frozen=True)
class BrokenLine:
    """A line of a JSONL file that is no JSON: where it breaks, and the line."""

    why: str
    text: str


@dataclasses.dataclass(frozen=True)
class JsonPiece:
    """Entries of a JSON file, or the unparsed lines of a JSONL file."""

    file: str
    numbers: tuple[int, ...]
    entries: tuple[Any, ...]
    is_lines: bool = False

    @property
    def count(self) -> int:
        return len(self.entries)

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yields (number in the file, entry or `BrokenLine`)."""
        for number, entry in zip(self.numbers, self.entries, strict=True):
            yield number, _read_line(entry, number) if self.is_lines else entry


def _read_line(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return BrokenLine(f"line {number + 1}, column {error.colno}, {error.msg}", text)
    except (ValueError, RecursionError) as error:
        return BrokenLine(f"line {number + 1}, {error}", text)


@dataclasses.dataclass(frozen=True)
class ParquetPiece:
    """Row groups of a parquet file; `first` is the number of the first row."""

    file: str
    first: int
    count: int
    row_groups: tuple[int, ...]

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yields (number in the file, row as a dict).

        Raises:
          ValueError: if the file is damaged here.
        """
        parquet, number = _parquet(), self.first
        try:
            with parquet.ParquetFile(self.file) as table:
                groups = list(self.row_groups)
                for batch in table.iter_batches(batch_size=64, row_groups=groups):
                    for row in batch.to_pylist():
                        yield number, row
                        number += 1
        except Exception as error:  # Arrow has classes of its own.
            raise ValueError(
                f"{self.file} cannot be read from row {number} on ({error!s:.200}): "
                "fetch it again."
            ) from error


def find_sources(paths: Sequence[str]) -> list[Path]:
    """Returns the source files, those of a folder in order of their names.

    Raises:
      ValueError: if there is no such file, a folder has no parquet files, or a file is
        of another kind or only stands in the place of one (git-lfs).
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*" + _PARQUET))
            if not found:
                raise ValueError(
                    f"{path} has no {_PARQUET} files: name the JSON file itself."
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"There is no source {path}: check the path.")
    wrong = [str(f) for f in files if f.suffix not in (".json", ".jsonl", _PARQUET)]
    if wrong or not files:
        raise ValueError(f"Sources are .json, .jsonl or {_PARQUET} files, not {wrong}.")
    if any(f.suffix == _PARQUET for f in files):
        _parquet()
    for file in files:
        check_not_pointer(file)
    return [file.absolute() for file in files]


def count_entries(file: Path) -> int:
    """Returns how many entries the file has. Raises ValueError if it cannot be read."""
    if file.suffix == _PARQUET:
        return _parquet_metadata(file).num_rows
    if file.suffix == ".jsonl":
        return sum(1 for _ in _lines(file))
    return len(_json_list(file))


def pieces_of(file: Path, rows_per_shard: int) -> Iterator[Piece]:
    """Yields the pieces of a source file, each of about so many entries.

    Raises:
      ValueError: if the file is damaged as a whole.
    """
    if file.suffix == _PARQUET:
        yield from _parquet_pieces(file, rows_per_shard)
        return
    entries = _lines(file) if file.suffix == ".jsonl" else enumerate(_json_list(file))
    entries = iter(entries)
    while chunk := tuple(itertools.islice(entries, rows_per_shard)):
        numbers, values = zip(*chunk, strict=True)
        yield JsonPiece(str(file), numbers, values, file.suffix == ".jsonl")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (number of the line from 0, line) of those that are not empty."""
    # An entry with bytes that are no text is that entry's fault, not the file's. A byte
    # order mark is no part of the first.
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "\n"}
    with file.open(**how) as lines:
        for number, line in enumerate(lines):
            if line.strip():
                yield number, line


def _json_list(file: Path) -> list[Any]:
    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}): is it complete?") from error
    if not isinstance(entries, list):
        raise ValueError(
            f"{file} is not a list of entries but a {type(entries).__name__}; files "
            "with one entry a line are named .jsonl."
        )
    return entries


def _parquet_pieces(file: Path, rows_per_shard: int) -> Iterator[ParquetPiece]:
    metadata = _parquet_metadata(file)
    first = count = 0
    groups: list[int] = []
    for group in range(metadata.num_row_groups):
        groups.append(group)
        count += metadata.row_group(group).num_rows
        if count >= rows_per_shard or group == metadata.num_row_groups - 1:
            yield ParquetPiece(str(file), first, count, tuple(groups))
            first, count, groups = first + count, 0, []


def _parquet_metadata(file: Path) -> Any:
    parquet = _parquet()
    try:
        return parquet.read_metadata(file)
    except Exception as error:  # Arrow has classes of its own.
        raise ValueError(f"{file} is no parquet file ({error!s:.200}).") from error


def _parquet() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            "Reading parquet files needs pyarrow: pip install -e '.[data]' in the "
            "folder of this project's setup.py."
        ) from error
    return parquet
