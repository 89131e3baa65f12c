"""Training batches of the embedded benchmark, as a resumable grain iterator.

Row i of a run depends on (seed, i) alone: threads, prefetching and restarts change
nothing. The iterator's state is its place, saved and restored with the checkpoint by
`grain.checkpoint.CheckpointSave` and `CheckpointRestore`.
"""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.pages.batches import make_batch
from visor_jax.data.pages.forms import Form, form_of
from visor_jax.data.pages.packing import TextRow, pack_row
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.tiles.crop_draw import FEW, drawn_count, drawn_crops
from visor_jax.data.row_range import batched_range

# Of one recipe, or of several.
Pools = PagePool | Sequence[PagePool]


class PageQuestions:
    """Random access to the rows of a run: element i is (page index, packed row).

    Several pools take turns, step by step; their pages are numbered through.
    """

    def __init__(self, pools: Pools, settings: PageDataSettings, *, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"{steps=} must be at least 1.")
        self._settings = settings
        self._steps = steps
        self._pools = _several(pools)
        self._forms = [form_of(pool) for pool in self._pools]
        self._answers = [
            form.book.answers(pool.facts)
            for form, pool in zip(self._forms, self._pools, strict=True)
        ]
        self._first = np.cumsum([0, *map(len, self._pools)])
        self._phase_ends = np.array([end for end, _ in settings.phases])
        self._cumulative = [
            [np.cumsum(form.book.probabilities(weights)) for form in self._forms]
            for _, weights in settings.phases
        ]
        self._asked_tiles = [
            form.book.asked_tiles(pool.facts)
            for form, pool in zip(self._forms, self._pools, strict=True)
            if any(crops == FEW for _, crops in settings.crop_phases)
        ]

    def __len__(self) -> int:
        return self._steps * self._settings.batch_size

    def __getitem__(self, index: int) -> tuple[int, TextRow]:
        settings = self._settings
        rng = np.random.default_rng([settings.seed, index])
        step = index // settings.batch_size
        turn = step % len(self._pools)
        form, answers = self._forms[turn], self._answers[turn]
        page = int(rng.integers(len(answers)))
        crops = None
        cumulative = self._cumulative[self.phase_of(step)][turn]
        if settings.any_crops:
            phase, crops = self._phase_and_crops(
                step, index % settings.batch_size, form
            )
            if phase == FEW:
                cumulative = np.cumsum(self._about(crops, page, step, turn))
        draws = rng.random(settings.questions_per_page) * cumulative[-1]
        questions = np.searchsorted(cumulative, draws, side="right")
        row = pack_row(
            questions,
            answers[page, questions],
            settings.text_length,
            book=form.book,
            image_tokens=form.patch_index.count,
        )
        if crops is not None:
            row = dataclasses.replace(row, crops=crops)
        return int(self._first[turn]) + page, row

    def _about(
        self, crops: tuple[int, ...], page: int, step: int, turn: int
    ) -> np.ndarray:
        """Returns the questions' chances, those of unseen tiles being 0."""
        seen = sum(1 << (crop - 1) for crop in crops[1:])
        may = (self._asked_tiles[turn][page] & ~seen) == 0
        _, weights = self._settings.phases[self.phase_of(step)]
        return self._forms[turn].book.probabilities(weights, may)

    def _phase_and_crops(
        self, step: int, row: int, form: Form
    ) -> tuple[str, tuple[int, ...]]:
        """Returns the phase of a step and the crops that a row of it looks at."""
        seed, crops = self._settings.seed, form.patch_index.crops
        ends, phases = zip(*self._settings.crop_phases, strict=True)
        phase = phases[np.searchsorted(ends, step / self._steps, side="right")]
        count = drawn_count(seed, step, crops, phase)
        return phase, drawn_crops(seed, step, row, count=count, crops=crops)

    def batch(self, rows: Sequence[tuple[int, TextRow]]) -> Batch:
        """Returns the batch of some rows of one step."""
        index = np.array([page for page, _ in rows])
        turn = int(np.searchsorted(self._first, index[0], side="right")) - 1
        index -= self._first[turn]
        pool = self._pools[turn]
        return make_batch(
            self._forms[turn],
            pool.pages[index],
            [row for _, row in rows],
            pool.facts[index],
            [row.crops for _, row in rows] if self._settings.any_crops else None,
        )

    def phase_of(self, step: int) -> int:
        """Returns the index of the phase that a step belongs to."""
        fraction = step / self._steps
        return int(np.searchsorted(self._phase_ends, fraction, side="right"))


def _several(pools: Pools) -> Sequence[PagePool]:
    return (pools,) if isinstance(pools, PagePool) else pools


def train_iterator(
    pools: Pools,
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

    questions = PageQuestions(pools, settings, steps=steps)
    wanted, size = batched_range(questions, settings.batch_size, rows)
    batches = wanted.batch(size, batch_fn=questions.batch)
    return iter(
        batches.to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        )
    )
