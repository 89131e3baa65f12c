"""How long looks take: tower, projector, decoder and logits of pages in one batch."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from visor_jax.analysis.looks.asking import Item, item_batches
from visor_jax.analysis.looks.rows import crops_of
from visor_jax.budget import Budget
from visor_jax.evals.harness import next_tokens
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.inference.loading.network import Network
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.variants import dense
from visor_jax.models.vlm import VLM
from visor_jax.runtime.stopwatch import median_seconds

LOOKS = ("base", "base+1", "base+2", "all")
DENSE = "dense"
PAGES, RUNS = 16, 15


def look_times(
    network: Network, benchmark: TileBenchmark, budgets: Sequence[Budget]
) -> dict[str, dict[str, float]]:
    """Returns {grid: {"look/budget": milliseconds a page}}, and of the dense network.

    One question a page, `PAGES` pages at once, medians of `RUNS`; compilation and
    reading apart. The dense network has all crops, and parameters that are all 0.01:
    its time does not depend on them.
    """
    found = {}
    config = dense(network.config).replace(reading_layers=())
    shapes = parameter_shapes(config)
    params = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    params = jax.device_put(params)
    every = Budget.all(config.plan).gates(config.plan)
    for part in benchmark.parts:
        batches = {look: jax.device_put(_batch(part, look)) for look in LOOKS}
        programs = {
            f"{look}/{budget.name}": functools.partial(
                next_tokens,
                network.vlm,
                network.params,
                batches[look],
                budget.gates(network.config.plan),
            )
            for look in LOOKS
            for budget in budgets
        }
        programs[DENSE] = functools.partial(
            next_tokens, VLM(config), params, batches["all"], every
        )
        seconds = median_seconds(programs, runs=RUNS, warm_up=2)
        found[part.pool.recipe.name] = {
            name: 1e3 * each / PAGES for name, each in seconds.items()
        }
    return found


def _batch(part: PageBenchmark, look: str):
    """Returns one question about each of some pages; the first tiles are looked at."""
    crops = None if look == "all" else tuple(range(crops_of(look, part)))
    pages = [number % len(part.pool) for number in range(PAGES)]
    items = [Item(page, part.questions(page)[4:5], crops) for page in pages]
    return next(item_batches(part, items, PAGES))[0]
