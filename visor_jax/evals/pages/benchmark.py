"""The held-out pages and questions that networks are compared on.

One `EvaluationSet` serves all networks of a report: the same pages, the same questions,
whatever seed a network was trained with.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from visor_jax.batch import Batch
from visor_jax.data.pages.batches import (
    EvaluationBatch,
    evaluation_batches,
    single_question_batch,
)
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE, RECIPE_VERSION
from visor_jax.data.pages.pool.pool import PagePool, Progress, make_pool
from visor_jax.data.pages.questions import EASY, HARD, LONGEST_QUESTION, TASK_NAMES
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.models.config import VLMConfig

# Of the pages and of the choice of questions, for every network alike.
EVALUATION_SEED = 0
GROUPS: dict[str, tuple[str, ...]] = {"easy": EASY, "hard": HARD}


@dataclasses.dataclass(frozen=True)
class AskedQuestion:
    """One question about a page, in words."""

    task: str
    text: str
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Pages that are asked every task once.

    batch_size: pages in one forward pass; all batches have the same shape.
    """

    pool: PagePool
    batch_size: int = 64
    task_names: tuple[str, ...] = TASK_NAMES

    @classmethod
    def make(
        cls,
        pages: int = 1024,
        *,
        split: str = "test",
        batch_size: int = 64,
        cache_dir: str | os.PathLike | None = None,
        progress: Progress | None = None,
    ) -> "EvaluationSet":
        """Returns the set with the first `pages` pages of a split.

        Raises:
          ValueError: for an unknown split, or sizes below 1.
        """
        if pages < 1 or batch_size < 1:
            raise ValueError(f"{pages=} and {batch_size=} must be at least 1.")
        pool = make_pool(
            split, pages, seed=EVALUATION_SEED, cache_dir=cache_dir, progress=progress
        )
        return cls(pool=pool, batch_size=min(batch_size, pages))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the pages' words, a Hugging Face one."""
        return page_tokenizer()

    @property
    def num_batches(self) -> int:
        return -(-len(self.pool) // self.batch_size)

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that say which questions about which pages these are."""
        return {
            "split": self.pool.split,
            "recipe": RECIPE_VERSION,
            "pages": len(self.pool),
            "evaluation_seed": EVALUATION_SEED,
            "batch_size": self.batch_size,
        }

    def batches(self) -> Iterator[EvaluationBatch]:
        """Yields all pages; the reading loss's labels are left out."""
        for asked in evaluation_batches(
            self.pool, self.batch_size, seed=EVALUATION_SEED
        ):
            yield asked._replace(batch=asked.batch.replace(image_labels=None))

    def questions(self, pages: int) -> list[list[AskedQuestion]]:
        """Returns, for each of the first pages, its questions in the order of tasks."""
        head = dataclasses.replace(self.pool, pages=self.pool.pages[:pages])
        head = dataclasses.replace(head, facts=self.pool.facts[:pages])
        (asked,) = evaluation_batches(head, len(head), seed=EVALUATION_SEED)
        return [self._questions_of_row(asked, row) for row in range(len(head))]

    def _questions_of_row(
        self, asked: EvaluationBatch, row: int
    ) -> list[AskedQuestion]:
        batch, words = asked.batch, self.tokenizer.convert_ids_to_tokens
        questions = []
        for place in np.flatnonzero(asked.task_ids[row] >= 0):
            same = batch.text_segments[row] == batch.text_segments[row, place]
            text = batch.tokens[row, :place][same[:place]]
            questions.append(
                AskedQuestion(
                    task=self.task_names[asked.task_ids[row, place]],
                    text=" ".join(words(text.tolist())),
                    answer=words(int(batch.targets[row, place])),
                )
            )
        return questions

    def prompts(self, count: int) -> Batch:
        """Returns `count` pages with one question each, as at inference.

        The tasks take turns; shorter prompts are padded to the longest question there
        is. With fewer pages than that, pages are used again.
        """
        pages = np.resize(np.arange(len(self.pool)), count)
        questions = self.questions(min(count, len(self.pool)))
        texts = [
            questions[page][i % len(self.task_names)].text
            for i, page in enumerate(pages)
        ]
        # LONGEST_QUESTION counts the answer too.
        return single_question_batch(
            self.pool.pages[pages],
            texts,
            self.tokenizer,
            text_length=LONGEST_QUESTION - 1,
        )


def check_reads_pages(config: VLMConfig, preset: str) -> None:
    """Raises ValueError unless the network is one for pages."""
    if config.vision.image_size != IMAGE_SIZE:
        raise ValueError(
            f"a network of preset {preset!r} for {config.vision.image_size}-pixel "
            f"images cannot answer the embedded benchmark ({IMAGE_SIZE} pixels); only "
            "preset 'mini' can so far."
        )
