"""Asks tiled pages their questions while only some of their crops are looked at.

Where all questions of a page look at the same crops, one row asks them all; where each
looks at tiles of its own, each has a row. Tokens keep the order they have among all.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.pages.batches import make_batch
from visor_jax.data.pages.packing import TextRow, pack_row
from visor_jax.evals.harness import next_tokens
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.inference.loading.network import Network


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One row: questions about a page, and the crops that they look at.

    questions: numbers in the book. crops: ascending, 0 among them; None for all.
    """

    page: int
    questions: Int[np.ndarray, "n"]
    crops: tuple[int, ...] | None


def alike(part: PageBenchmark, crops: tuple[int, ...] | None) -> list[Item]:
    """Returns a row per page, all of whose questions look at the same crops."""
    pages = range(len(part.pool))
    return [Item(page, part.questions(page), crops) for page in pages]


def each_its_own(
    part: PageBenchmark, tiles: Int[np.ndarray, "questions k"]
) -> list[Item]:
    """Returns a row per question, which looks at the base view and these tiles."""
    pages = range(len(part.pool))
    questions = [(p, q) for p in pages for q in part.questions(p).tolist()]
    return [
        Item(page, np.array([question]), (0, *sorted(mine)))
        for (page, question), mine in zip(questions, tiles.tolist(), strict=True)
    ]


def item_batches(
    part: PageBenchmark, items: Sequence[Item], batch_size: int
) -> Iterator[tuple[Batch, list[TextRow], int]]:
    """Yields batches of one shape, their rows, and how many of them are real.

    The last one is filled up with its last row.
    """
    form, book = part.form, part.form.book
    length = max(int(book.lengths[item.questions].sum()) for item in items)
    # Of single questions the longest there is: one program, whatever is asked.
    length = max(length, book.longest)
    for start in range(0, len(items), batch_size):
        mine = list(items[start : start + batch_size])
        kept = len(mine)
        mine += mine[-1:] * (batch_size - kept)
        pages = np.array([item.page for item in mine])
        facts = part.pool.facts[pages]
        answers = book.answers(facts)
        rows = [
            pack_row(
                item.questions,
                right[item.questions],
                length,
                book=book,
                image_tokens=form.patch_index.count,
            )
            for item, right in zip(mine, answers, strict=True)
        ]
        crops = None if mine[0].crops is None else [item.crops for item in mine]
        yield make_batch(form, part.pool.pages[pages], rows, None, crops), rows, kept


def right_answers(
    network: Network,
    part: PageBenchmark,
    items: Sequence[Item],
    budget: Budget,
    *,
    batch_size: int,
) -> Bool[np.ndarray, "questions"]:
    """Returns for every question whether it is answered right, and ended there."""
    gates, end = budget.gates(network.config.plan), part.form.book.eos_id
    found = []
    for batch, rows, kept in item_batches(part, items, batch_size):
        there = jax.device_put(batch)
        predicted = np.asarray(next_tokens(network.vlm, network.params, there, gates))
        for row, text in enumerate(rows[:kept]):
            places = text.answer_places
            answers = text.tokens[places + 1]
            is_right = predicted[row, places] == answers
            found.append(is_right & (predicted[row, places + 1] == end))
    return np.concatenate(found)
