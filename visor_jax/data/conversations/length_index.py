"""The lengths of all samples of a data set, measured once and kept on disk.

Texts are tokenised and images measured by their stored sizes: no picture is opened. The
file's name says what was measured and how, so that a stale one is never read:

    <cache>/lengths-<manifest checksum>-<processor digest>.npz
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from visor_jax.data.conversations.conversation_set import ConversationSet
from visor_jax.data.conversations.length_workers import measure
from visor_jax.data.conversations.mixture import MixtureEntry
from visor_jax.data.conversations.training_samples import Lengths, TrainingProcessor
from visor_jax.runtime import atomic_write
from visor_jax.runtime.kept_file import read_or_make

_FIELDS = tuple(field.name for field in dataclasses.fields(Lengths))
_NAMED = 16


@dataclasses.dataclass(frozen=True, eq=False)
class LengthIndex:
    """The fields of `Lengths` for n samples; text_tokens is 0 where there are none.

    refused: {row: why} of samples that this processor cannot express.
    """

    crops: Int[np.ndarray, "n"]
    image_tokens: Int[np.ndarray, "n"]
    text_tokens: Int[np.ndarray, "n"]
    corners: Int[np.ndarray, "n"]
    image_end: Int[np.ndarray, "n"]
    first_trained: Int[np.ndarray, "n"]
    shared_tokens: Int[np.ndarray, "n"]
    group: Int[np.ndarray, "n"]
    special_text: Int[np.ndarray, "n"]
    refused: dict[int, str]

    @classmethod
    def of(
        cls, measured: Int[np.ndarray, "fields n"], refused: dict[int, str]
    ) -> "LengthIndex":
        """Returns the index of what `measure` found."""
        return cls(**dict(zip(_FIELDS, measured, strict=True)), refused=refused)

    def __len__(self) -> int:
        return len(self.crops)

    def rows(self, rows: Int[np.ndarray, "m"]) -> "LengthIndex":
        """Returns the index of some samples, in that order."""
        refused = {
            new: self.refused[int(old)]
            for new, old in enumerate(rows)
            if int(old) in self.refused
        }
        return LengthIndex(
            **{name: getattr(self, name)[rows] for name in _FIELDS}, refused=refused
        )

    @classmethod
    def concat(cls, parts: list["LengthIndex"]) -> "LengthIndex":
        """Returns the index of all samples of the parts, one after the other."""
        refused, first = {}, 0
        for part in parts:
            refused |= {first + row: why for row, why in part.refused.items()}
            first += len(part)
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in _FIELDS
            },
            refused=refused,
        )


def length_index(
    data: ConversationSet,
    processor: TrainingProcessor,
    *,
    cache: Path,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LengthIndex:
    """Returns the lengths of all samples, from the cache if they are there.

    Args:
      cache: folder of the file; made if it is not there.
      workers: processes that measure where there is much to measure; 0 for none.
      progress: called with the samples measured and the samples in all, and with none
        while another process measures them; may raise to stop.

    Raises:
      ValueError: if a text cannot be read.
    """
    names = data.manifest.checksum[:_NAMED], processor.digest()[:_NAMED]
    file = cache / f"lengths-{'-'.join(names)}.npz"

    def measure_and_keep() -> LengthIndex:
        measured = measure(data, processor, workers=workers, progress=progress)
        index = LengthIndex.of(*measured)
        _save(file, index)
        return index

    return read_or_make(
        file,
        lambda: _load(file, len(data)),
        measure_and_keep,
        wait=lambda: progress(0, len(data)),
    )


def mixture_lengths(
    mixture: Sequence[MixtureEntry],
    processor: TrainingProcessor,
    *,
    cache: Path,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LengthIndex:
    """Returns the lengths of a mixture's samples, entry after entry.

    Args:
      cache, workers: as for `length_index`.
      progress: gets the samples of all data sets together.

    Raises:
      ValueError: as `length_index`.
    """
    manifests = {entry.manifest.checksum: entry.manifest for entry in mixture}
    total = sum(manifest.samples for manifest in manifests.values())
    done, measured = 0, {}
    for checksum, manifest in manifests.items():
        measured[checksum] = length_index(
            ConversationSet(manifest),
            processor,
            cache=cache,
            workers=workers,
            progress=lambda n, _, before=done: progress(before + n, total),
        )
        done += manifest.samples
    return LengthIndex.concat(
        [measured[entry.manifest.checksum].rows(entry.rows) for entry in mixture]
    )


def _save(file: Path, index: LengthIndex) -> None:
    arrays = {
        "refused_rows": np.array(list(index.refused), np.int64),
        "refused_why": np.array(list(index.refused.values()), np.str_),
        **{name: getattr(index, name) for name in _FIELDS},
    }
    atomic_write.write_file(file, lambda stream: np.savez_compressed(stream, **arrays))


def _load(file: Path, samples: int) -> LengthIndex | None:
    """Returns what was measured before, None if there is nothing.

    Raises:
      Exception: of whatever kind, if it is damaged.
    """
    if not file.is_file():
        return None
    with np.load(file) as content:
        why = content["refused_why"].tolist()
        refused = dict(zip(content["refused_rows"].tolist(), why, strict=True))
        fields = {name: content[name] for name in _FIELDS}
    if any(len(values) != samples for values in fields.values()):
        raise ValueError("it is of other data")
    return LengthIndex(**fields, refused=refused)
