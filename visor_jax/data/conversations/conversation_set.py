"""Random access to one converted data set; texts and images are read apart."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import grain
import numpy as np

from visor_jax.data.conversations.manifest import Manifest
from visor_jax.data.conversations.raw_sample import (
    Conversation,
    RawSample,
    images_from_bytes,
)

T = TypeVar("T")

# Texts that are read at once when all are read.
_CHUNK = 512


class DamagedRecordError(ValueError):
    """A record that cannot be read back; the message names shard and row."""


class ConversationSet:
    """The samples of a converted data set, in the order they were converted.

    Opens no file before it is read, and travels to other processes without its files.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        shards, folder = manifest.shards, manifest.directory
        # With the number of rows in its name no shard is opened before it is needed.
        self._texts, self._images = (
            grain.sources.ArrayRecordDataSource(
                [f"{folder / getattr(s, part).file}[0:{s.rows}]" for s in shards]
            )
            for part in ("texts", "images")
        )
        self._ends = np.cumsum([shard.rows for shard in shards])

    def __len__(self) -> int:
        return self.manifest.samples

    def conversation(self, row: int) -> Conversation:
        """Returns the text of a sample. Raises DamagedRecordError."""
        return self._read(
            row, "texts", lambda: Conversation.from_bytes(self._texts[row])
        )

    def conversations(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[Conversation]:
        """Yields the texts of all samples, or of some. Raises DamagedRecordError."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, _CHUNK):
            rows = range(first, min(first + _CHUNK, stop))
            try:
                records = self._texts.__getitems__(list(rows))
            except Exception:  # One of them; read singly, it gets its name.
                records = None
            for row in rows:
                if records is None:
                    yield self.conversation(row)
                    continue
                record = records[row - first]
                yield self._read(
                    row, "texts", lambda record=record: Conversation.from_bytes(record)
                )

    def sample(self, row: int) -> RawSample:
        """Returns a sample with its images. Raises DamagedRecordError."""
        conversation = self.conversation(row)
        if not conversation.image_sizes:
            return RawSample(conversation=conversation)
        images = self._read(row, "images", lambda: images_from_bytes(self._images[row]))
        return RawSample(conversation=conversation, images=images)

    def place(self, row: int, part: str = "images") -> str:
        """Returns where a sample lies: its shard's file, and the row in it."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        shard = self.manifest.shards[number]
        first = int(self._ends[number]) - shard.rows
        file = self.manifest.directory / getattr(shard, part).file
        return f"{file}, row {row - first}"

    def _read(self, row: int, part: str, read: Callable[[], T]) -> T:
        if not 0 <= row < len(self):
            raise IndexError(f"{row=} is not in 0..{len(self) - 1}.")
        try:
            return read()
        except Exception as error:  # Whatever the C++ reader makes of it.
            raise DamagedRecordError(
                f"{self.place(row, part)} is damaged: {error!s:.200}"
            ) from error
