"""Training batches of the embedded benchmark, as a resumable grain iterator.

Row i of a run depends on (seed, i) alone: threads, prefetching and restarts change
nothing. The iterator's state is its place, saved and restored with the checkpoint by
`grain.checkpoint.CheckpointSave` and `CheckpointRestore`.
"""

from collections.abc import Sequence

import grain
import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.pages.batches import make_batch
from visor_jax.data.pages.packing import TextRow, answer_table, pack_row
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.questions import question_probabilities
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.row_range import batched_range


class PageQuestions:
    """Random access to the rows of a run: element i is (page index, packed row)."""

    def __init__(
        self, pool: PagePool, settings: PageDataSettings, *, steps: int
    ) -> None:
        if steps < 1:
            raise ValueError(f"{steps=} must be at least 1.")
        self._settings = settings
        self._steps = steps
        self._answers = answer_table(pool.facts)
        self._phase_ends = np.array([end for end, _ in settings.phases])
        self._cumulative = [
            np.cumsum(question_probabilities(weights)) for _, weights in settings.phases
        ]

    def __len__(self) -> int:
        return self._steps * self._settings.batch_size

    def __getitem__(self, index: int) -> tuple[int, TextRow]:
        settings = self._settings
        rng = np.random.default_rng([settings.seed, index])
        page = int(rng.integers(len(self._answers)))
        cumulative = self._cumulative[self.phase_of(index // settings.batch_size)]
        draws = rng.random(settings.questions_per_page) * cumulative[-1]
        questions = np.searchsorted(cumulative, draws, side="right")
        answers = self._answers[page, questions]
        return page, pack_row(questions, answers, settings.text_length)

    def phase_of(self, step: int) -> int:
        """Returns the index of the phase that a step belongs to."""
        fraction = step / self._steps
        return int(np.searchsorted(self._phase_ends, fraction, side="right"))


def train_iterator(
    pool: PagePool,
    settings: PageDataSettings,
    *,
    steps: int,
    rows: slice | None = None,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Returns an iterator over the `Batch`es (NumPy) of a run of `steps` steps.

    `get_state()` and `set_state()` save and restore its place.

    Args:
      rows: rows of every batch that are wanted, None for all.
      num_threads: threads that prepare batches; 0 prepares them in the caller's.
      prefetch: batches that are prepared ahead.
    """

    def assemble(questions: Sequence[tuple[int, TextRow]]) -> Batch:
        index = np.array([page for page, _ in questions])
        digits = pool.facts["digits"][index]
        return make_batch(pool.pages[index], [row for _, row in questions], digits)

    questions = PageQuestions(pool, settings, steps=steps)
    wanted, size = batched_range(questions, settings.batch_size, rows)
    batches = wanted.batch(size, batch_fn=assemble)
    return iter(
        batches.to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        )
    )
