"""Rows of a split that lies in parquet files, as the hub keeps data sets.

    data/test-00000-of-00003.parquet, data/test-00001-of-00003.parquet, ...

Rows are read a few at a time and only in the columns that are asked for, so that
pictures are not, unless they are wanted.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals.tables.cells import Row
from visor_jax.runtime.lfs_pointer import check_not_pointer

# Older ones have a digest at their end.
SHARD = re.compile(
    r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?\.parquet"
)
_ROWS_AT_ONCE = 32
# Of a column that is read; without it a row group's pictures are read at once.
_BUFFER_BYTES = 2**20


class ParquetTable:
    """The rows of several files, one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Reads what the files say of themselves.

        Raises:
          ValueError: if pyarrow is missing, a shard is, or one cannot be read.
        """
        self.files = tuple(sorted(files))
        _check_complete(self.files)
        self._columns, self._rows = [], 0
        for file in self.files:
            with _opened(file) as opened:
                self._columns.append(tuple(opened.schema_arrow.names))
                self._rows += opened.metadata.num_rows
        self.columns = self._columns[0]

    def __len__(self) -> int:
        return self._rows

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yields the rows with those of the columns that there are."""
        wanted = [name for name in columns if name in self.columns]
        for file, columns_there in zip(self.files, self._columns, strict=True):
            lacking = sorted({*wanted} - {*columns_there})
            if lacking:
                raise ValueError(f"{file} has no columns {lacking}, others have them.")
            with _opened(file) as opened:
                batches = opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted)
                for batch in batches:
                    yield from batch.to_pylist()


def _check_complete(files: Sequence[Path]) -> None:
    found = [SHARD.fullmatch(file.name) for file in files]
    numbers = {int(each["number"]) for each in found if each}
    counts = {int(each["count"]) for each in found if each}
    if len(counts) > 1:
        raise ValueError(
            f"{files[0].parent} has shards of several divisions: {counts}."
        )
    missing = sorted({*range(max(counts, default=0))} - numbers)
    if missing:
        raise ValueError(
            f"{files[0].parent} has {len(numbers)} of {max(counts)} shards; missing "
            f"are {missing[:5]}: complete the download."
        )


def _opened(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            "Reading parquet files needs pyarrow: pip install -e '.[data]' in the "
            "folder of this project's setup.py."
        ) from error
    check_not_pointer(file)
    try:
        # Read ahead, all columns of a file would stay in memory until it is closed.
        return parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except Exception as error:  # Arrow has classes of its own.
        raise ValueError(f"{file} is no parquet file ({error!s:.200}).") from error
