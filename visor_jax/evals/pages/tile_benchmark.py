"""Tiled pages as a benchmark: as many pages of each size, and which tiles hold what.

Easy questions are answered by the base view of a page, hard ones by the digits of one
tile or two, which the base view does not show. Each hard question knows its tiles.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from visor_jax.data.pages.forms import TILES, forms_of
from visor_jax.data.pages.pool.pool import Progress
from visor_jax.evals.benchmark import Example, PackedBatch
from visor_jax.evals.pages.benchmark import PageBenchmark


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileBenchmark:
    """Pages of every grid of tiles, each asked every task once.

    parts: the pages of one grid each, smallest first.
    """

    parts: tuple[PageBenchmark, ...]
    name: str = TILES
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
    ) -> "TileBenchmark":
        """Returns the benchmark with the first pages of a split, `pages` in all.

        Raises:
          ValueError: for an unknown split, or fewer pages than there are grids.
        """
        forms = forms_of(TILES)
        if pages < len(forms):
            raise ValueError(
                f"{pages=}: tiled pages come in {len(forms)} sizes, so give at least "
                f"{len(forms)}."
            )
        counts = [(pages + len(forms) - 1 - i) // len(forms) for i in range(len(forms))]
        return cls(
            parts=tuple(
                PageBenchmark.make(
                    count,
                    split=split,
                    batch_size=batch_size,
                    cache_dir=cache_dir,
                    progress=progress,
                    recipe=form.recipe,
                )
                for form, count in zip(forms, counts, strict=True)
            )
        )

    @property
    def split(self) -> str:
        """Whose handwriting it is: "train", "policy" or "test"."""
        return self.parts[0].split

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Easy tasks need the base view, hard ones a tile or two."""
        return self.parts[0].groups

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that say which questions about which pages these are."""
        return {part.pool.recipe.name: part.identity() for part in self.parts}

    def examples(self) -> Iterator[Example]:
        """Yields the questions page by page, the smaller pages first."""
        for part in self.parts:
            yield from part.examples()

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Returns whether the answer is the one word that is right."""
        return self.parts[0].score(example, answer)

    def packed(self) -> Iterator[PackedBatch]:
        """Yields all pages, those of one size together."""
        for part in self.parts:
            yield from part.packed()


def drawn_benchmark(
    kind: str, pages: int, **made: Any
) -> PageBenchmark | TileBenchmark:
    """Returns the benchmark of a kind of pages, made by its `make`."""
    benchmark = TileBenchmark if kind == TILES else PageBenchmark
    return benchmark.make(pages, **made)
