"""Batches of pages: packed rows, or every task once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.images.patch_index import NEWLINE
from visor_jax.data.pages.book import Book
from visor_jax.data.pages.forms import Form, form_of
from visor_jax.data.pages.packing import NO_LABEL, TextRow, pack_row
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.questions import BOOK

# Tokens of a row that asks every task about digit pages once.
EVALUATION_LENGTH = BOOK.every_task
NO_TASK = -1


class EvaluationBatch(NamedTuple):
    """Pages that are asked every task once.

    batch: with text length `Book.every_task`.
    task_ids: (B, T) int32, number of the book's task where an answer is predicted (at
      the ":" whose target is the answer), -1 elsewhere and in rows that only fill up.
    page_index: (B,) int32 in the pool, -1 for rows that only fill up the last batch.
    """

    batch: Batch
    task_ids: np.ndarray
    page_index: np.ndarray


def make_batch(
    form: Form,
    pages: np.ndarray,
    rows: Sequence[TextRow],
    facts: np.ndarray | None,
    looked: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Returns the batch of B uint8 pages and their packed rows.

    Args:
      pages: (B, side, side, 3) uint8.
      facts: (B,) records, for the auxiliary reading loss; None leaves its labels out.
      looked: for each page the crops that are looked at, ascending, as many for each;
        None for all. Tokens keep their order, as if all were there.
    """
    labels = None if facts is None else form.reading_labels(facts)
    if looked is None or len(looked[0]) == form.patch_index.crops:
        image = _image_fields(form, pages) | {"image_labels": labels}
    else:
        image = _looked_fields(form, pages, looked, labels)
    return Batch(
        **image,
        tokens=np.stack([r.tokens for r in rows]),
        text_positions=np.stack([r.positions for r in rows]),
        text_segments=np.stack([r.segments for r in rows]),
        text_mask=np.stack([r.mask for r in rows]),
        targets=np.stack([r.targets for r in rows]),
        loss_mask=np.stack([r.loss_mask for r in rows]),
    )


def _image_fields(form: Form, pages: np.ndarray) -> dict[str, np.ndarray]:
    crops, index = form.crops(pages), form.patch_index.index
    newline = crops.shape[1] * form.images.patches_per_crop
    index = np.where(index == NEWLINE, np.int32(newline), index)
    order = np.arange(len(index), dtype=np.int32)
    return {
        "pixels": crops,
        "image_token_index": np.tile(index, (len(pages), 1)),
        "image_positions": np.tile(order, (len(pages), 1)),
        "image_mask": np.ones((len(pages), len(index)), bool),
    }


def _looked_fields(
    form: Form,
    pages: np.ndarray,
    looked: Sequence[Sequence[int]],
    labels: np.ndarray | None,
) -> dict[str, np.ndarray | None]:
    """Returns the image fields of some crops, padded to the most that they can have.

    Whether they say where tokens stand depends on the number of crops alone, so that
    steps of one shape share one program; a base view has no gaps.
    """
    per_crop, side = form.images.patches_per_crop, form.images.patches_per_side
    crops = len(looked[0])
    # Every tile ends at most as many rows of the grid as it has.
    length = min(crops * per_crop + (crops - 1) * side, form.patch_index.count)
    shape = len(pages), length
    index, places = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    seen = None if labels is None else np.full(shape, NO_LABEL, np.int32)
    for row, chosen in enumerate(looked):
        tokens, kept = form.patch_index.of_crops(chosen, per_crop)
        there = np.s_[row, : len(kept)]
        newline = np.int32(crops * per_crop)
        index[there] = np.where(tokens.index == NEWLINE, newline, tokens.index)
        places[there], mask[there] = kept, True
        if seen is not None:
            seen[there] = labels[row, kept]
    every = form.crops(pages)
    rows = np.arange(len(pages))[:, None]
    return {
        "pixels": every[rows, np.array(looked)],
        "image_token_index": index,
        "image_positions": places.copy(),
        "image_mask": mask,
        "image_labels": seen,
        "image_places": places if crops > 1 else None,
    }


def evaluation_batches(
    pool: PagePool, batch_size: int, *, seed: int = 0
) -> Iterator[EvaluationBatch]:
    """Yields every page of the pool, asked each of its tasks once.

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
    form = form_of(pool)
    book = form.book
    answers = book.answers(pool.facts)
    for start in range(0, len(pool), batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        index[index >= len(pool)] = NO_TASK
        kept = np.where(index < 0, 0, index)
        rows = [_every_task(form, answers[i], seed, int(i)) for i in kept]
        task_ids = np.full((batch_size, book.every_task), NO_TASK, np.int32)
        for ids, row in zip(task_ids, rows, strict=True):
            ids[row.answer_places] = book.question_task[row.questions]
        batch = make_batch(form, pool.pages[kept], rows, pool.facts[kept])
        filler = index < 0
        batch.loss_mask[filler] = False
        task_ids[filler] = NO_TASK
        yield EvaluationBatch(batch, task_ids, index)


def questions_of_page(page: int, *, seed: int = 0, book: Book = BOOK) -> np.ndarray:
    """Returns which question of each task `evaluation_batches` asks about a page.

    (tasks,) indices in the book's questions, in the order of tasks.
    """
    first = np.searchsorted(book.question_task, np.arange(len(book.tasks)))
    choices = np.bincount(book.question_task)
    return first + np.random.default_rng([seed, page]).integers(0, choices)


def _every_task(form: Form, answers: np.ndarray, seed: int, page: int) -> TextRow:
    book = form.book
    questions = questions_of_page(page, seed=seed, book=book)
    return pack_row(
        questions,
        answers[questions],
        book.every_task,
        book=book,
        image_tokens=form.patch_index.count,
    )
