"""Keeps scores on disk, so that no answer is computed twice.

    <folder>/<network>/network.json       what the digest stands for
                      /<batch>/seen.npz   what a policy sees of the batch's questions
                              /sa1_3.npz  how the budget sa1:3 answers them

A network is a digest of its parameters and sizes, a batch is one of its arrays. So all
objectives, seeds and sets of budgets share what they have in common, and scores of
something else are never met. A file is complete or not there: a stage that was stopped
goes on with the first batch that lacks anything. Of several processes the first one's
files count, whatever disks the others have; all of them score together.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.policy.scores import ScoredSamples
from visor_jax.runtime import atomic_write
from visor_jax.runtime.agreement import of_first_process, whole_arrays

FORMAT = 2
NETWORK, SEEN = "network.json", "seen.npz"
# Fields of `ScoredSamples` that no budget changes, and those that each budget has.
_SEEN = ("routing", "image", "rows", "slots")
_ANSWERS = ("correct", "log_likelihood")
_DIGITS = 16

# Scores a batch at some budgets; `rows` count from its own first row.
Scorer = Callable[[Batch, BudgetSet], ScoredSamples]


def digest_of_arrays(tree: Mapping[str, Any]) -> str:
    """Returns a digest of nested arrays: names, shapes, dtypes and values.

    Of arrays that several processes hold parts of, all of them call it.
    """
    digest = hashlib.sha256()
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    for path, value in sorted(flat.items()):
        array = np.ascontiguousarray(_on_host(value))
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8))
    return digest.hexdigest()


def _on_host(value: Any) -> np.ndarray:
    # What every process has is hashed as it is, alike for any number of them.
    is_split = isinstance(value, jax.Array) and not value.is_fully_addressable
    return whole_arrays(value) if is_split else np.asarray(value)


class ScoreCache:
    """The scores of one network, whatever the questions and budgets."""

    def __init__(self, folder: str | os.PathLike, network: Mapping[str, Any]) -> None:
        """Opens the network's part of the folder, or makes it.

        Args:
          network: JSON values that say which one it is, a digest of its parameters
            among them.

        Raises:
          OSError: if the folder cannot be made.
        """
        text = json.dumps({**network, "format": FORMAT}, sort_keys=True, indent=2)
        name = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        self._folder = Path(folder) / f"scores-{name}"
        if not _keeps_files():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / NETWORK
        if not file.exists():
            atomic_write.write_text(file, text)

    def of_batch(
        self, batch: Batch, budgets: BudgetSet, score: Scorer
    ) -> ScoredSamples:
        """Returns the scores of a host batch at every budget of the set.

        score: is asked for the budgets that are not there, or damaged.
        """
        folder = self._folder / _digest_of_batch(batch)
        stored = _Stored.read(folder, budgets)
        lacking = stored.lacking()
        if lacking:
            found = score(batch, BudgetSet(budgets.plan, lacking)).arrays()
            stored.add(found, lacking)
        arrays = stored.stacked() if _keeps_files() else {}
        return ScoredSamples(**of_first_process(arrays))


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What the first process has of a batch; `seen` has no arrays where it lacks them.

    answers: of every budget that is wanted, None where they are lacking.
    """

    folder: Path
    seen: dict[str, np.ndarray]
    answers: dict[Budget, dict[str, np.ndarray] | None]

    @classmethod
    def read(cls, folder: Path, budgets: BudgetSet) -> "_Stored":
        if not _keeps_files():
            return cls(folder, {}, dict.fromkeys(budgets))
        seen = _read(folder / SEEN, _SEEN) or {}
        count = len(seen["rows"]) if seen else None
        answers = {b: _read(_file_of(folder, b), _ANSWERS, count) for b in budgets}
        return cls(folder, seen, answers)

    def lacking(self) -> tuple[Budget, ...]:
        """Returns the budgets to score, the same ones on all processes."""
        lacks = np.array([found is None for found in self.answers.values()])
        # Some budget must tell what is seen.
        lacks[0] |= not self.seen and not lacks.any()
        lacks = of_first_process({"lacks": lacks})["lacks"]
        return tuple(b for b, there in zip(self.answers, lacks, strict=True) if there)

    def add(self, found: Mapping[str, np.ndarray], budgets: tuple[Budget, ...]) -> None:
        """Keeps what was scored."""
        if not _keeps_files():
            return
        if not self.seen:
            self.seen.update({name: found[name] for name in _SEEN})
            _write(self.folder / SEEN, self.seen)
        for column, budget in enumerate(budgets):
            answers = {name: found[name][:, column] for name in _ANSWERS}
            self.answers[budget] = answers
            _write(_file_of(self.folder, budget), answers)

    def stacked(self) -> dict[str, np.ndarray]:
        """Returns the fields of `ScoredSamples`; nothing may be lacking."""
        columns = {n: [each[n] for each in self.answers.values()] for n in _ANSWERS}
        answers = {name: np.stack(each, axis=1) for name, each in columns.items()}
        return {**self.seen, **answers}


def _keeps_files() -> bool:
    return jax.process_index() == 0


def collect_scores(
    cache: ScoreCache,
    batches: Iterable[Batch],
    budgets: BudgetSet,
    score: Scorer,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> ScoredSamples:
    """Returns the scores of all batches, their rows counted over all of them.

    Args:
      batches: of the host. score: see `ScoreCache.of_batch`.
      progress: called with the number of batches done after each; may raise to stop.
    """
    parts, first_row = [], 0
    for number, batch in enumerate(batches, 1):
        found = cache.of_batch(batch, budgets, score)
        rows = (found.rows + first_row).astype(np.int32)
        parts.append(dataclasses.replace(found, rows=rows))
        first_row += batch.size
        progress(number)
    return ScoredSamples.join(parts)


def _digest_of_batch(batch: Batch) -> str:
    # Labels of the reading loss play no part in the answers.
    names = {f.name for f in dataclasses.fields(batch)} - {"image_labels"}
    fields = {name: getattr(batch, name) for name in names}
    there = {name: value for name, value in fields.items() if value is not None}
    return digest_of_arrays(there)[:_DIGITS]


def _file_of(folder: Path, budget: Budget) -> Path:
    return folder / f"{budget.name.replace(':', '_')}.npz"


def _read(
    file: Path, names: tuple[str, ...], count: int | None = None
) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file; None if it is not there or damaged.

    count: samples that there must be, None if nobody knows.
    """
    try:
        with np.load(file) as arrays:
            found = {name: arrays[name] for name in names}
    except Exception:  # What NumPy makes of mutilated bytes no list of them holds.
        return None
    lengths = {len(array) for array in found.values()}
    if len(lengths) > 1 or (count is not None and lengths != {count}):
        return None
    return found


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    file.parent.mkdir(exist_ok=True)
    atomic_write.write_file(file, lambda stream: np.savez(stream, **arrays))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Which rows are scored at every budget: `batches` of `batch_size` rows.

    seed: of their pages and questions. It is not the run's, so that policies of any
    seed and objective share the scores of their network.
    cache: folder of the scores; None for the network's own (see `tasks.policy`).
    """

    batches: int
    batch_size: int = 64
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        sizes = {"batches": self.batches, "batch_size": self.batch_size}
        wrong = {k: v for k, v in sizes.items() if v < 1}
        if wrong:
            raise ValueError(f"ScoreSettings needs values of at least 1: {wrong}.")
        if self.seed < 0:
            raise ValueError(f"scores.seed={self.seed} must not be negative.")
