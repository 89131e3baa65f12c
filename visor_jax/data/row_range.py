"""The rows of a run that one process loads: the same range of every global batch."""

from typing import Any, Protocol

import grain


class RandomAccess(Protocol):
    """What a run's rows are read from: all of them, in the order of the run."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def batched_range(
    rows: RandomAccess, batch_size: int, wanted: slice | None
) -> tuple[grain.MapDataset, int]:
    """Returns the dataset of the wanted rows, and how many of them make a batch.

    Batch n of what it holds is batch n of the run, whatever the range: the place of an
    iterator counts batches and means the same on every process.

    Args:
      rows: those of the whole run.
      batch_size: rows of a global batch.
      wanted: rows of every batch, e.g. `slice(0, 4)`; None for all of them.

    Raises:
      ValueError: for an empty range, one outside the batch, or one with a step.
    """
    wanted = slice(0, batch_size) if wanted is None else wanted
    if wanted.step not in (None, 1) or not 0 <= wanted.start < wanted.stop:
        raise ValueError(f"rows={wanted} is not a range of rows.")
    if wanted.stop > batch_size:
        raise ValueError(f"rows={wanted} are not all in a batch of {batch_size}.")
    if wanted == slice(0, batch_size):
        return grain.MapDataset.source(rows), batch_size
    picked = _Picked(rows, batch_size, wanted)
    return grain.MapDataset.source(picked), wanted.stop - wanted.start


class _Picked:
    """Random access to the wanted rows of every batch, one after the other."""

    def __init__(self, rows: RandomAccess, batch_size: int, wanted: slice) -> None:
        self._rows, self._batch_size, self._wanted = rows, batch_size, wanted
        self._size = wanted.stop - wanted.start

    def __len__(self) -> int:
        return len(self._rows) // self._batch_size * self._size

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, self._size)
        return self._rows[batch * self._batch_size + self._wanted.start + row]
