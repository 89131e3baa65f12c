"""A pool of pages of one split: drawn once, questioned anew at every step."""

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from visor_jax.data.pages.pool import cache
from visor_jax.data.pages.pool.facts import PageFacts
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.data.pages.pool.recipes import DIGIT_PAGES, Recipe
from visor_jax.data.pages.pool.worker import chunks_of, draw_pages
from visor_jax.runtime.kept_file import read_or_make

Progress = Callable[[int, int], None]
# Pages and facts, as in `PagePool`.
Drawn = tuple[np.ndarray, np.ndarray]

# Below this many pages, starting an interpreter costs more than it saves.
_WORTH_A_PROCESS = 2000


@dataclasses.dataclass(frozen=True)
class PagePool:
    """Pages and what is true of them.

    pages: (n, side, side, 3) uint8; read-only and mapped from disk when cached.
    facts: (n,) of the recipe's record, one field per attribute (for digit pages
      `visor_jax.data.pages.pool.facts`).
    """

    split: str
    pages: np.ndarray
    facts: np.ndarray
    recipe: Recipe = DIGIT_PAGES

    def __len__(self) -> int:
        return len(self.pages)

    def page_facts(self, index: int) -> PageFacts:
        """Returns the facts of one digit page as a readable value."""
        return PageFacts.from_record(self.facts[index])


def make_pool(
    split: str,
    size: int,
    *,
    seed: int = 0,
    processes: int = 1,
    cache_dir: str | os.PathLike | None = None,
    progress: Progress | None = None,
    recipe: Recipe = DIGIT_PAGES,
) -> PagePool:
    """Returns `size` pages of a split; the same pages however they are drawn.

    Args:
      split: "train", "policy" or "test".
      processes: interpreters that draw; 1 draws in this one.
      cache_dir: folder in which the pool is kept for the next call; a damaged file is
        reported by a warning and drawn again.
      progress: called with (pages done, size), never by two threads at once, and with
        (0, size) while another process draws them into `cache_dir`; may raise to stop.
      recipe: how they are drawn.

    Raises:
      ValueError: for an unknown split, or sizes or process counts below 1.
    """
    split_id(split)
    if size < 1 or processes < 1 or seed < 0:
        raise ValueError(
            f"A pool needs {size=} and {processes=} of at least 1 and {seed=} of at "
            "least 0."
        )
    report = _Counter(size, progress)
    draw = functools.partial(_draw, recipe, split, size, seed, processes, report)
    if cache_dir is None:
        return PagePool(split, *draw(), recipe)
    path = Path(cache_dir) / cache.pool_name(recipe, split, size, seed)

    def draw_and_keep() -> Drawn:
        drawn = draw()
        cache.write(path, *drawn)
        return drawn

    drawn = read_or_make(
        path,
        functools.partial(cache.read, path, recipe, size),
        draw_and_keep,
        wait=lambda: report.add(0),
        damaged=lambda error: warnings.warn(
            f"The cached pool {path} is damaged and will be drawn again: {error}",
            stacklevel=4,
        ),
    )
    return PagePool(split, *drawn, recipe)


def _draw(
    recipe: Recipe,
    split: str,
    size: int,
    seed: int,
    processes: int,
    report: "_Counter",
) -> Drawn:
    """Returns pages and facts."""
    pages = np.empty((size, recipe.side, recipe.side, 3), np.uint8)
    facts = np.empty(size, recipe.record)
    if processes == 1 or size < _WORTH_A_PROCESS:
        _draw_here(recipe, pages, facts, split, seed, report)
    else:
        _draw_elsewhere(recipe, pages, facts, split, seed, processes, report)
    return pages, facts


class _Counter:
    """Adds up the pages that several threads report."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0
        self._lock = threading.Lock()

    def add(self, pages: int) -> None:
        with self._lock:
            self._done += pages
            if self._progress is not None:
                self._progress(self._done, self._total)


def _draw_here(
    recipe: Recipe,
    pages: np.ndarray,
    facts: np.ndarray,
    split: str,
    seed: int,
    report: _Counter,
) -> None:
    for chunk in chunks_of(0, len(pages)):
        there = slice(chunk.start, chunk.stop)
        pages[there], facts[there] = draw_pages(split, seed, chunk, recipe)
        report.add(len(chunk))


def _draw_elsewhere(
    recipe: Recipe,
    pages: np.ndarray,
    facts: np.ndarray,
    split: str,
    seed: int,
    processes: int,
    report: _Counter,
) -> None:
    ends = np.linspace(0, len(pages), processes + 1).astype(int).tolist()

    def read_one(start: int, stop: int) -> None:
        command = [sys.executable, "-m", "visor_jax.data.pages.pool.worker"]
        arguments = [recipe.name, split, str(seed), str(start), str(stop)]
        with subprocess.Popen(
            command + arguments, stdout=subprocess.PIPE, env=_environment()
        ) as worker:
            for chunk in chunks_of(start, stop):
                there = slice(chunk.start, chunk.stop)
                complete = _fill(worker.stdout, pages[there]) and _fill(
                    worker.stdout, facts[there]
                )
                if not complete:
                    raise RuntimeError(
                        f"The process that draws pages {start}..{stop - 1} ended early "
                        f"with exit code {worker.wait()}; see its error output, or "
                        "draw with processes=1."
                    )
                report.add(len(chunk))

    with ThreadPoolExecutor(processes) as threads:
        tasks = [
            threads.submit(read_one, start, stop)
            for start, stop in itertools.pairwise(ends)
        ]
        for task in tasks:
            task.result()


def _fill(pipe, array: np.ndarray) -> bool:
    # A record has no padding, so a pipe can write straight into the array's bytes.
    view = memoryview(array.view(np.uint8).reshape(-1))
    return pipe.readinto(view) == len(view)


def _environment() -> dict[str, str]:
    # The package may be importable here only because of this process's sys.path.
    root = str(Path(__file__).resolve().parents[4])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
