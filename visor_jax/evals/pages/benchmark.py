"""Pages as a benchmark: the held-out pages and questions that networks are compared on.

One benchmark serves all networks of a report: the same pages, the same questions,
whatever seed a network was trained with. Every page is asked every task once.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from visor_jax.data.pages.batches import evaluation_batches, questions_of_page
from visor_jax.data.pages.forms import DIGITS, Form, form_of
from visor_jax.data.pages.packing import NUM_IMAGE_TOKENS
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.pages.pool.pool import PagePool, Progress, make_pool
from visor_jax.data.pages.pool.recipes import DIGIT_PAGES, Recipe
from visor_jax.data.pages.questions import BOOK, LONGEST_QUESTION
from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmark import Example, PackedBatch, PromptLengths
from visor_jax.evals.metrics.exact_match import exact_match
from visor_jax.inference.loading.reads_pages import pages_read, reads_pages
from visor_jax.models.config import VLMConfig

# Of the pages and of the choice of questions, for every network alike.
EVALUATION_SEED = 0
GROUPS: Mapping[str, tuple[str, ...]] = BOOK.groups
# Of a question on its own; shorter ones are padded to the longest. LONGEST_QUESTION
# counts the answer too.
PROMPT_LENGTHS = PromptLengths(
    text_tokens=LONGEST_QUESTION - 1, image_tokens=NUM_IMAGE_TOKENS, crops=1
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageBenchmark:
    """Pages of one recipe that are asked every task once.

    batch_size: pages in one forward pass; all batches have the same shape.
    """

    pool: PagePool
    batch_size: int = 64
    name: str = "pages"
    cluster_name: str = "page"
    new_tokens: int | None = None

    @classmethod
    def make(
        cls,
        pages: int = 1024,
        *,
        split: str = "test",
        batch_size: int = 64,
        cache_dir: str | os.PathLike | None = None,
        progress: Progress | None = None,
        recipe: Recipe = DIGIT_PAGES,
    ) -> "PageBenchmark":
        """Returns the benchmark with the first `pages` pages of a split.

        Raises:
          ValueError: for an unknown split, or sizes below 1.
        """
        if pages < 1 or batch_size < 1:
            raise ValueError(f"{pages=} and {batch_size=} must be at least 1.")
        pool = make_pool(
            split,
            pages,
            seed=EVALUATION_SEED,
            cache_dir=cache_dir,
            progress=progress,
            recipe=recipe,
        )
        return cls(pool=pool, batch_size=min(batch_size, pages))

    @property
    def split(self) -> str:
        """Whose handwriting it is: "train", "policy" or "test"."""
        return self.pool.split

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Easy tasks need a glance, hard ones a digit or a bar at a place."""
        return self.form.book.groups

    @functools.cached_property
    def form(self) -> Form:
        """How the pages become what a network reads."""
        return form_of(self.pool)

    def __len__(self) -> int:
        return len(self.pool) * len(self.form.book.tasks)

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that say which questions about which pages these are."""
        return {
            "split": self.pool.split,
            "recipe": self.pool.recipe.version,
            "pages": len(self.pool),
            "evaluation_seed": EVALUATION_SEED,
            "batch_size": self.batch_size,
        }

    def examples(self) -> Iterator[Example]:
        """Yields the questions page by page, each page's in the order of tasks."""
        for page in range(len(self.pool)):
            yield from self._about(page)

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Returns whether the answer is the one word that is right."""
        return {"exact_match": exact_match(answer, example.references)}

    def packed(self) -> Iterator[PackedBatch]:
        """Yields all pages; the reading loss's labels are left out."""
        for asked in evaluation_batches(
            self.pool, self.batch_size, seed=EVALUATION_SEED
        ):
            # -1 is a row that only fills up.
            pages = asked.page_index[asked.page_index >= 0].tolist()
            yield PackedBatch(
                batch=asked.batch.replace(image_labels=None),
                examples=tuple(e for page in pages for e in self._about(page)),
                lengths=self.lengths,
            )

    @functools.cached_property
    def lengths(self) -> PromptLengths:
        """Those of a question on its own."""
        patch_index, book = self.form.patch_index, self.form.book
        return PromptLengths(
            text_tokens=book.longest - 1,
            image_tokens=patch_index.count,
            crops=patch_index.crops,
        )

    @functools.cached_property
    def _answers(self) -> np.ndarray:
        return self.form.book.answers(self.pool.facts)

    def questions(self, page: int) -> np.ndarray:
        """Returns which questions of its book a page is asked, (tasks,)."""
        return questions_of_page(page, seed=EVALUATION_SEED, book=self.form.book)

    def _about(self, page: int) -> Iterator[Example]:
        """Yields the questions about one page, in the order of tasks."""
        recipe, book = self.pool.recipe, self.form.book
        cluster = f"{self.split}-{page}"
        if recipe != DIGIT_PAGES:
            cluster = f"{recipe.name}-{cluster}"
        for question in self.questions(page).tolist():
            task = book.task_names[book.question_task[question]]
            yield Example(
                id=f"{cluster}-{task}",
                task=task,
                cluster=cluster,
                request=Request(book.questions[question].text, [self.pool.pages[page]]),
                references=(book.vocabulary.tokens[self._answers[page, question]],),
            )


def check_reads_pages(config: VLMConfig, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError unless the network is one for digit pages.

    metadata: of its checkpoint.
    """
    if not reads_pages(config, metadata):
        preset = metadata.get("preset", "unknown")
        raise ValueError(
            f"a network of preset {preset!r} for {config.vision.image_size}-pixel "
            "images cannot answer the embedded benchmark: it was not trained on its "
            f"pages of {IMAGE_SIZE} pixels; only the presets 'mini' and 'demo' are."
        )
    kind = pages_read(metadata)
    if kind != DIGITS:
        raise ValueError(
            f"a network for pages of {kind} cannot answer those of {DIGITS}: its own "
            "are asked by `python -m visor_jax.looks` (and its training's report)."
        )
