"""Prepared data: rows of the model's input on disk, as a resumable grain iterator.

    directory/
      manifest.json                       what there is; written last, in one step
      rows-00000.array_record             one record = one row of a `Batch`
      rows-00001.array_record
      tokenizer/                          of the rows' text, for the networks that are
                                          trained on them; may be absent

A record is `flax.serialization.msgpack_serialize({field: array})`, the arrays without
the batch axis. All rows have the same fields, shapes and dtypes.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization

from visor_jax.batch import Batch
from visor_jax.data.prepared_manifest import (
    MANIFEST,
    Manifest,
    Shard,
    Specs,
    check_fields,
    read_manifest,
    write_manifest,
)
from visor_jax.data.row_range import batched_range

TOKENIZER = "tokenizer"

# Grain reads single rows, so every record is compressed by itself.
_WRITER_OPTIONS = "group_size:1,zstd:3"

Row = dict[str, np.ndarray]


def write_prepared(
    directory: str | os.PathLike[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    rows_per_shard: int,
    tokenizer: Any = None,
) -> Manifest:
    """Returns the manifest of the data set after writing it.

    Args:
      directory: made if it is not there, cleared of an interrupted preparation.
      rows: {field of `Batch`: array without the batch axis}, stored as given; an
        optional field may be absent or None.
      rows_per_shard: rows in every file but the last.
      tokenizer: that the rows were made with, or the processor it is part of; anything
        of Hugging Face that has `save_pretrained`.

    Raises:
      ValueError: if the directory holds a data set already, if there are no rows, or
        if a row has other fields, shapes or dtypes than the first.
    """
    if rows_per_shard < 1:
        raise ValueError(f"{rows_per_shard=} must be at least 1.")
    directory = _cleared(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory / TOKENIZER)
    fields: Specs = {}
    records = _records(rows, fields)
    shards = []
    # A shard is opened only once there is a record for it.
    for first in records:
        of_shard = chain([first], islice(records, rows_per_shard - 1))
        shards.append(_write_shard(directory, len(shards), of_shard))
    if not shards:
        raise ValueError(f"There are no rows to write to {directory}.")
    write_manifest(directory, shards, fields)
    return read_manifest(directory)


class PreparedRows:
    """Random access to the rows of a data set, in the order they were written."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        # With the number of rows in its name no shard is opened before it is needed.
        self._records = grain.sources.ArrayRecordDataSource(
            [f"{manifest.directory / s.file}[0:{s.rows}]" for s in manifest.shards]
        )

    def __len__(self) -> int:
        return self._manifest.rows

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"{index=} is not in 0..{len(self) - 1}.")
        try:
            row = serialization.msgpack_restore(self._records[index])
            found = _specs(row)
        except Exception as error:  # Whatever the C++ reader or msgpack make of it.
            raise ValueError(f"{self._place(index)} is damaged: {error!r}") from error
        if found != self._manifest.fields:
            raise ValueError(f"{self._place(index)} is not what {MANIFEST} says.")
        return row

    def _place(self, index: int) -> str:
        ends = np.cumsum([shard.rows for shard in self._manifest.shards])
        shard = self._manifest.shards[np.searchsorted(ends, index, side="right")]
        return f"Row {index} (in {self._manifest.directory / shard.file})"


def prepared_iterator(
    directory: str | os.PathLike[str],
    *,
    batch_size: int,
    steps: int,
    seed: int,
    rows: slice | None = None,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Returns an iterator over the `Batch`es (NumPy) of a run of `steps` steps.

    Every epoch is another shuffle of all rows, and epochs follow one another without
    regard to the ends of batches. Row i of a run depends on (seed, i) and the data
    alone. `get_state()` and `set_state()` save and restore its place, which is the
    number of batches: the batch size must stay as it is.

    Args:
      rows: rows of every batch that are wanted, None for all.
      num_threads: threads that prepare batches; 0 prepares them in the caller's.
      prefetch: batches that are prepared ahead.

    Raises:
      ValueError: as `read_manifest`; while iterating, if a row is damaged.
    """
    if batch_size < 1 or steps < 1 or seed < 0:
        raise ValueError(f"{batch_size=} or {steps=} is below 1, or {seed=} below 0.")
    stored = grain.MapDataset.source(PreparedRows(read_manifest(directory)))
    # Grain shuffles epoch e with seed + e: neighbouring seeds would share epochs.
    shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    of_run = stored.shuffle(seed=shuffle_seed).repeat()[: steps * batch_size]
    wanted, size = batched_range(of_run, batch_size, rows)
    return iter(
        wanted.batch(size, batch_fn=_assemble).to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        )
    )


def example_batch(directory: str | os.PathLike[str], batch_size: int) -> Batch:
    """Returns the first row `batch_size` times (read-only), to learn shapes from."""
    if batch_size < 1:
        raise ValueError(f"{batch_size=} must be at least 1.")
    row = Batch(**PreparedRows(read_manifest(directory))[0])
    return row.map(lambda array: np.broadcast_to(array, (batch_size, *array.shape)))


def _assemble(rows: Sequence[Row]) -> Batch:
    return Batch(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _specs(row: Row) -> Specs:
    return {name: (array.shape, array.dtype.name) for name, array in row.items()}


def _cleared(directory: str | os.PathLike[str]) -> Path:
    """Returns the directory, without what an interrupted preparation left there."""
    directory = Path(directory).absolute()
    if (directory / MANIFEST).exists():
        raise ValueError(
            f"{directory} holds a prepared data set already: choose another directory "
            "or delete this one."
        )
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob("rows-*.array_record"):
        leftover.unlink()
    return directory


def _records(rows: Iterable[Mapping[str, Any]], fields: Specs) -> Iterator[bytes]:
    """Yields every row as bytes; puts what the first one looks like into `fields`."""
    for index, given in enumerate(rows):
        row = {k: _native(v) for k, v in given.items() if v is not None}
        found = _specs(row)
        if not fields:
            check_fields(found)
            fields.update(found)
        if found != fields:
            wrong = sorted(dict(found.items() ^ fields.items()))
            differences = {k: (found.get(k), fields.get(k)) for k in wrong}
            raise ValueError(
                f"Row {index} differs from the first: (row, first) = {differences}. "
                "Pad all rows to the same shapes."
            )
        yield serialization.msgpack_serialize(row)


def _native(value: Any) -> np.ndarray:
    # A record keeps the name of a dtype, and a name does not tell the byte order.
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder())


def _write_shard(directory: Path, number: int, records: Iterable[bytes]) -> Shard:
    file = directory / f"rows-{number:05d}.array_record"
    writer = ArrayRecordWriter(str(file), _WRITER_OPTIONS)
    count = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    return Shard(file=file.name, rows=count, bytes=file.stat().st_size)
