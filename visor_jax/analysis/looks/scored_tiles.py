"""What routers read of a base view, and what a trained scorer learns from.

Reading is one pass over the base view alone, at the budget that a router looks with;
the untrained router takes the attention to each tile, the scorer the rest. The scorer
learns from every tile of every question, looked at beside the base view at that same
budget, twice, each time with another tile: of a question about two tiles none shows its
worth alone. See `visor_jax.policy.tile_scorer`.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float32, Int

from visor_jax.analysis.looks.asking import Item, each_its_own, item_batches
from visor_jax.analysis.looks.choices import random_ranking
from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.tiles_shown import (
    features_of_tiles,
    tile_of_patches,
)
from visor_jax.policy.scores import score_batch
from visor_jax.policy.tile_scorer import Scored, TileFeatures
from visor_jax.runtime.progress import Progress


def tile_features(
    network: Network, part: PageBenchmark, budget: Budget, *, batch_size: int
) -> TileFeatures:
    """Returns what is read of every question of the pages, page by page.

    Easy questions look somewhere, too.
    """
    index, gates = part.form.patch_index, budget.gates(network.config.plan)
    shown = tile_of_patches(index, network.config.vision.num_patches)
    items = [Item(page, part.questions(page), (0,)) for page in range(len(part.pool))]
    found: list[TileFeatures] = []
    for batch, rows, kept in item_batches(part, items, batch_size):
        places = np.stack([row.answer_places for row in rows]).astype(np.int32)
        read = read_base_view(
            network.params,
            jax.device_put(batch),
            places,
            model=network.vlm,
            gates=gates,
        )
        words, image, looks = jax.tree.map(lambda x, n=kept: np.asarray(x)[:n], read)
        found.append(features_of_tiles(words, image, looks, shown, index.crops - 1))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def right_with_two_tiles(
    network: Network,
    part: PageBenchmark,
    circles: Int[np.ndarray, "questions tiles"],
    budget: Budget,
    *,
    batch_size: int,
) -> Iterator[Float32[np.ndarray, "questions"]]:
    """Yields how probable every right answer is with neighbours of a circle of tiles.

    First with the first two, then with the second and the third, at last with the last
    and the first; beside the base view nothing else is looked at.

    circles: of each question, all tiles of its page, from 1.
    """
    only = BudgetSet(network.config.plan, (budget,))
    following = np.roll(circles, -1, axis=1)
    for pair in np.stack([circles, following], axis=-1).swapaxes(0, 1):
        items = each_its_own(part, pair)
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
            circles, pairs = random_ranking(part), []
            how = {"batch_size": batch_size}
            for pair in right_with_two_tiles(network, part, circles, budget, **how):
                pairs.append(pair)
                bar.update(done := done + len(pair))
            scored.append((read, _of_each_tile(np.stack(pairs, axis=1), circles)))
    return scored


def _of_each_tile(
    pairs: Float32[np.ndarray, "questions tiles"],
    circles: Int[np.ndarray, "questions tiles"],
) -> Float32[np.ndarray, "questions tiles"]:
    """Returns the mean over the two pairs that a tile is in, by its number."""
    in_circle = (pairs + np.roll(pairs, 1, axis=1)) / 2
    found = np.empty_like(pairs)
    np.put_along_axis(found, circles - 1, in_circle, axis=1)
    return found
