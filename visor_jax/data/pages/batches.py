"""Batches of pages: packed rows, or every task once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.pages.packing import (
    NUM_IMAGE_TOKENS,
    TextRow,
    answer_table,
    normalise,
    pack_row,
    reading_labels,
)
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.questions import QUESTION_TASK, TASK_NAMES, TASKS

# Tokens of a row that asks every task once: the same for every page.
EVALUATION_LENGTH = sum(task.num_tokens for task in TASKS.values())
NO_TASK = -1


class EvaluationBatch(NamedTuple):
    """Pages that are asked every task once.

    batch: with text length `EVALUATION_LENGTH`.
    task_ids: (B, T) int32, index in `TASK_NAMES` where an answer is predicted (at the
      ":" whose target is the answer), -1 elsewhere and in rows that only fill up.
    page_index: (B,) int32 in the pool, -1 for rows that only fill up the last batch.
    """

    batch: Batch
    task_ids: np.ndarray
    page_index: np.ndarray


def make_batch(
    pages: np.ndarray, rows: Sequence[TextRow], digits: np.ndarray | None
) -> Batch:
    """Returns the batch of B uint8 pages and their packed rows.

    Args:
      pages: (B, 96, 96, 3) uint8.
      digits: (B, 3, 4), for the auxiliary reading loss; None leaves its labels out.
    """
    return Batch(
        **_image_fields(pages),
        tokens=np.stack([r.tokens for r in rows]),
        text_positions=np.stack([r.positions for r in rows]),
        text_segments=np.stack([r.segments for r in rows]),
        text_mask=np.stack([r.mask for r in rows]),
        targets=np.stack([r.targets for r in rows]),
        loss_mask=np.stack([r.loss_mask for r in rows]),
        image_labels=None if digits is None else reading_labels(digits),
    )


def _image_fields(pages: np.ndarray) -> dict[str, np.ndarray]:
    raster = np.arange(NUM_IMAGE_TOKENS, dtype=np.int32)
    raster = np.tile(raster, (len(pages), 1))
    return {
        "pixels": normalise(pages),
        "image_token_index": raster,
        "image_positions": raster.copy(),
        "image_mask": np.ones(raster.shape, bool),
    }


def evaluation_batches(
    pool: PagePool, batch_size: int, *, seed: int = 0
) -> Iterator[EvaluationBatch]:
    """Yields every page of the pool, asked each of the ten tasks once.

    Which question of a task a page is asked depends on (seed, page) alone. The last
    batch is filled up with rows that no loss mask and no task id counts.

    Raises:
      ValueError: for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"{batch_size=} must be at least 1.")
    return _evaluation_batches(pool, batch_size, seed)


def _evaluation_batches(
    pool: PagePool, batch_size: int, seed: int
) -> Iterator[EvaluationBatch]:
    answers = answer_table(pool.facts)
    for start in range(0, len(pool), batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        index[index >= len(pool)] = NO_TASK
        kept = np.where(index < 0, 0, index)
        rows = [_every_task(answers[i], seed, int(i)) for i in kept]
        task_ids = np.full((batch_size, EVALUATION_LENGTH), NO_TASK, np.int32)
        for ids, row in zip(task_ids, rows, strict=True):
            ids[row.answer_places] = QUESTION_TASK[row.questions]
        batch = make_batch(pool.pages[kept], rows, pool.facts["digits"][kept])
        filler = index < 0
        batch.loss_mask[filler] = False
        task_ids[filler] = NO_TASK
        yield EvaluationBatch(batch, task_ids, index)


def questions_of_page(page: int, *, seed: int = 0) -> np.ndarray:
    """Returns which question of each task `evaluation_batches` asks about a page.

    (tasks,) indices in `QUESTIONS`, in the order of tasks.
    """
    first = np.searchsorted(QUESTION_TASK, np.arange(len(TASK_NAMES)))
    choices = np.bincount(QUESTION_TASK)
    return first + np.random.default_rng([seed, page]).integers(0, choices)


def _every_task(answers: np.ndarray, seed: int, page: int) -> TextRow:
    questions = questions_of_page(page, seed=seed)
    return pack_row(questions, answers[questions], EVALUATION_LENGTH)
