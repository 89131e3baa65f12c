"""Rows of a table of VLMEvalKit: tab-separated, pictures in base64.

A cell of a picture with at most 64 characters is the index of the row that has it. The
places of all rows are noted at the beginning, so that such a row is found wherever it
stands and no picture is kept.
"""

import base64
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from visor_jax.evals.tables.cells import Row, is_missing, texts
from visor_jax.runtime.arguments import shown
from visor_jax.runtime.lfs_pointer import check_not_pointer

IMAGE, INDEX = "image", "index"
_LONGEST_INDEX = 64
# Of a cell: a picture in base64. csv's own limit is 128 kB.
_LONGEST_CELL = 2**31 - 1


class TsvTable:
    """The rows of one file."""

    def __init__(self, file: Path) -> None:
        """Reads the file once, for the places of its rows.

        Raises:
          ValueError: if it is no such table, or an index is there twice.
        """
        check_not_pointer(file)
        self.file, self.files = file, (file,)
        csv.field_size_limit(_LONGEST_CELL)
        self._places: dict[str, int] = {}
        with file.open("rb") as opened:
            reader = _Records(opened, file)
            self.columns = tuple(next(reader, ()))
            if INDEX not in self.columns:
                raise ValueError(
                    f"{file} is no table of VLMEvalKit: it has no column {INDEX!r} but "
                    f"{shown(self.columns)}."
                )
            for cells in reader:
                index = self._row(cells)[INDEX]
                if index in self._places:
                    raise ValueError(f"{file} has index {index!r} more than once.")
                self._places[index] = reader.place

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yields the rows with those of the columns that there are."""
        wanted = [name for name in columns if name in self.columns]
        with self.file.open("rb") as opened, self.file.open("rb") as others:
            reader = _Records(opened, self.file)
            next(reader)
            for cells in reader:
                row = self._row(cells)
                found = {name: row[name] for name in wanted}
                if IMAGE in found:
                    found[IMAGE] = self._pictures(row[IMAGE], others)
                yield found

    def _row(self, cells: Sequence[str]) -> dict[str, str]:
        if len(cells) != len(self.columns):
            raise ValueError(
                f"{self.file}: a row has {len(cells)} cells and not "
                f"{len(self.columns)}: {shown(list(cells[:3]))}."
            )
        return dict(zip(self.columns, cells, strict=True))

    def _pictures(self, cell: str, others: BinaryIO) -> list[bytes]:
        """Returns the pictures of a cell, one or a list of them."""
        if is_missing(cell):
            return []
        return [
            base64_bytes(self._referred(each, others), self.file)
            for each in texts(cell)
        ]

    def _referred(self, cell: str, others: BinaryIO) -> str:
        seen = []
        while len(cell) <= _LONGEST_INDEX:
            if cell in seen or cell not in self._places:
                raise ValueError(
                    f"{self.file}: image {cell!r} is neither a picture nor the index "
                    "of a row that has one."
                )
            seen.append(cell)
            others.seek(self._places[cell])
            cell = self._row(next(_Records(others, self.file)))[IMAGE]
        return cell


class _Records:
    """Yields the records of a file from where it stands; `place`: of the last one."""

    def __init__(self, opened: BinaryIO, file: Path) -> None:
        self._lines, self._file = opened, file
        self._next = self.place = opened.tell()
        self._reader = csv.reader(self._texts(), delimiter="\t")

    def _texts(self) -> Iterator[str]:
        for line in iter(self._lines.readline, b""):
            begins = self._next == 0
            self._next += len(line)
            try:
                yield line.decode("utf-8-sig" if begins else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{self._file} is no UTF-8 text: {error}.") from error

    def __iter__(self) -> "_Records":
        return self

    def __next__(self) -> list[str]:
        self.place = self._next
        cells = next(self._reader)
        return cells if cells else next(self)


def base64_bytes(cell: str, file: Path) -> bytes:
    """Returns what a cell holds. Raises ValueError for what is no base64."""
    try:
        return base64.b64decode(cell, validate=True)
    except ValueError as error:
        raise ValueError(
            f"{file}: image {shown(cell)} is no base64 ({error})."
        ) from error
