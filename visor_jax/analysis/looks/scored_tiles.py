"""What routers read of a base view, and what a trained scorer learns from.

Reading is one pass over the base view alone, at the budget that a router looks with;
the untrained router takes the attention to each tile, the scorer everything. The scorer
learns from every tile of every question, each looked at once beside the base view, at
that same budget. See `visor_jax.policy.tile_scorer`.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float, Float32

from visor_jax.analysis.looks.asking import Item, each_its_own, item_batches
from visor_jax.analysis.looks.choices import per_tile
from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.inference.loading.network import Network
from visor_jax.policy.scores import score_batch
from visor_jax.policy.tile_scorer import Scored, TileFeatures
from visor_jax.runtime.progress import Progress


def tile_features(
    network: Network, part: PageBenchmark, budget: Budget, *, batch_size: int
) -> TileFeatures:
    """Returns what is read of every question of the pages, page by page.

    Easy questions look somewhere, too.
    """
    form, gates = part.form, budget.gates(network.config.plan)
    grid = round((form.patch_index.crops - 1) ** 0.5)
    items = [Item(page, part.questions(page), (0,)) for page in range(len(part.pool))]
    found: list[TileFeatures] = []
    for batch, rows, kept in item_batches(part, items, batch_size):
        places = np.stack([row.answer_places for row in rows]).astype(np.int32)
        asked = places.shape[1]
        words, image, looks = read_base_view(
            network.params,
            jax.device_put(batch),
            places,
            model=network.vlm,
            gates=gates,
        )
        tiles = _per_tile_means(np.asarray(image)[:kept], grid)
        layers = [per_tile(np.asarray(each)[:kept], grid) for each in looks.values()]
        found.append(
            TileFeatures(
                question=np.asarray(words)[:kept].reshape(kept * asked, -1),
                tiles=np.repeat(tiles, asked, axis=0),
                looks=np.stack(layers, axis=-1).reshape(
                    kept * asked, grid * grid, len(layers)
                ),
            )
        )
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def right_with_each_tile(
    network: Network, part: PageBenchmark, budget: Budget, *, batch_size: int
) -> Iterator[Float32[np.ndarray, "questions"]]:
    """Yields for tile after tile how probable every right answer is with it.

    Beside the base view, nothing else is looked at.
    """
    only = BudgetSet(network.config.plan, (budget,))
    for tile in range(1, part.form.patch_index.crops):
        items = each_its_own(part, np.full((len(part), 1), tile))
        found = []
        for batch, _, kept in item_batches(part, items, batch_size):
            scored = score_batch(network.vlm, network.params, batch, only)
            found.append(np.exp(scored.log_likelihood[:kept, 0]))
        yield np.concatenate(found).astype(np.float32)


def scored_pages(
    network: Network, benchmark: TileBenchmark, budget: Budget, *, batch_size: int
) -> list[Scored]:
    """Returns what a scorer learns from, for the pages of each size."""
    parts = benchmark.parts
    total = sum(len(part) * (part.form.patch_index.crops - 1) for part in parts)
    scored, done = [], 0
    with Progress(total, description="looking at tiles", unit="looks") as bar:
        for part in parts:
            read = tile_features(network, part, budget, batch_size=batch_size)
            columns = []
            for column in right_with_each_tile(
                network, part, budget, batch_size=batch_size
            ):
                columns.append(column)
                bar.update(done := done + len(column))
            scored.append((read, np.stack(columns, axis=1)))
    return scored


def _per_tile_means(
    image: Float[np.ndarray, "B patches D"], grid: int
) -> Float[np.ndarray, "B tiles D"]:
    """Returns the mean of a base view's patches over those of each tile."""
    patches = image.shape[1]
    summed = per_tile(np.moveaxis(image, 1, 2), grid)
    return np.moveaxis(summed, 1, 2) * (grid * grid / patches)
