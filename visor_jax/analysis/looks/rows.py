"""The rows of a report on looks: accuracy, tiles found, and the FLOPs of everything.

    base              the base view alone
    base+k random     and k random tiles: the control
    base+k router     and the k tiles that the router finds
    base+k scorer     and those that a trained scorer finds, if there is one
    base+k asked      and the tiles that the question asks about: the oracle
    all               every crop

A question that asks about fewer tiles than are looked at gets random ones as well, so
that every question of a row costs the same. FLOPs are end to end, tower included, of
one question as a prompt of its own; those of the router's and the scorer's rows count
their own look at the base view, at the budget that they look with, and nothing of it is
used again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from visor_jax.analysis.looks import choices, climbing
from visor_jax.analysis.looks.asking import alike, each_its_own, right_answers
from visor_jax.analysis.looks.scored_tiles import tile_features
from visor_jax.budget import Budget
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.flops.account import account
from visor_jax.inference.loading.network import Network
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense
from visor_jax.policy.tile_scorer import TrainedScorer

COUNTS = (1, 2)
# Rules that look at the base view themselves.
_ROUTER, _SCORER = "router", "scorer"


Rankings = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookout:
    """How a report looks.

    budgets: to answer at. router: the budget that the router looks with.
    scorer: reads at that budget, too, and learned at it; its choice serves all budgets.
    """

    budgets: Sequence[Budget]
    router: Budget
    scorer: TrainedScorer | None = None
    batch_size: int = 32

    @property
    def rules(self) -> tuple[str, ...]:
        """How tiles are chosen."""
        trained = () if self.scorer is None else (_SCORER,)
        return ("random", _ROUTER, *trained, "asked")


def look_rows(
    network: Network, benchmark: TileBenchmark, how: Lookout
) -> dict[str, Any]:
    """Returns JSON: rows by budget and look, and how often rankings hit.

    A row has accuracies in 0..1: per task, and means over the tasks of a group, of all
    pages; per grid as well. FLOPs are means over the pages.
    """
    rankings = [_rankings(network, part, how) for part in benchmark.parts]
    found = []
    for budget in how.budgets:
        for name in (
            "base",
            *(f"base+{k} {rule}" for k in COUNTS for rule in how.rules),
        ):
            found.append(_row(network, benchmark, rankings, how, budget, name))
        found.append(_row(network, benchmark, rankings, how, budget, "all"))
    return {
        "pages": sum(len(part.pool) for part in benchmark.parts),
        "router_budget": how.router.name,
        "rows": found,
        "climbs": _climb_rows(network, benchmark, rankings, how),
        "hits": _hit_rows(benchmark, rankings),
        "dense_flops": float(
            np.mean([dense_flops(network.config, p) for p in benchmark.parts])
        ),
    }


def _climb_rows(
    network: Network,
    benchmark: TileBenchmark,
    rankings: Sequence[Rankings],
    how: Lookout,
) -> list[dict[str, Any]]:
    """Returns a row for each threshold: accuracies, looks taken, and FLOPs by group.

    grids: the share of easy and of hard questions that end with each look.
    """
    rule, then = how.rules[-2], how.budgets[-1]
    config, parts, climbs = network.config, benchmark.parts, []
    for part, mine in zip(parts, rankings, strict=True):
        flops = [
            look_flops(config, part, how.router, 1),
            # What chooses tiles has looked already.
            look_flops(config, part, then, 1 + climbing.TILES)
            + _scorer_flops(config, part, how, rule),
            look_flops(config, part, then, part.form.patch_index.crops),
        ]
        budgets, size = (how.router, then), how.batch_size
        climbs.append(
            climbing.climb(network, part, mine[rule], budgets, flops, batch_size=size)
        )

    def of_pages(take: Callable[[climbing.Climb], np.ndarray]) -> np.ndarray:
        """Returns (pages, tasks) of what is said of every question."""
        found = zip(parts, climbs, strict=True)
        return np.concatenate([take(c).reshape(len(p.pool), -1) for p, c in found])

    rows = []
    for threshold in climbing.THRESHOLDS:
        right = of_pages(lambda each, at=threshold: each.right_at(at))
        flops = of_pages(lambda each, at=threshold: each.flops_at(at))
        looks = of_pages(lambda each, at=threshold: 1.0 + each.last(at))
        rows.append(
            {
                "threshold": threshold,
                "tiles_by": rule,
                **_means(benchmark, right),
                "flops": _means(benchmark, flops),
                "looks": _means(benchmark, looks),
                "grids": {
                    part.pool.recipe.name: _endings(benchmark, part, each, threshold)
                    for part, each in zip(parts, climbs, strict=True)
                },
            }
        )
    return rows


def _rankings(network: Network, part: PageBenchmark, how: Lookout) -> Rankings:
    """Returns tiles best first, by rule; of the router's layers one by one as well."""
    read = tile_features(network, part, how.router, batch_size=how.batch_size)
    layers = {
        f"router, layer {layer}": choices.ranking_of(read.looks[..., number])
        for number, layer in enumerate(network.config.plan.cross_layers)
    }
    trained = {}
    if how.scorer is not None:
        trained = {_SCORER: choices.ranking_of(how.scorer.scores(read))}
    return {
        "random": choices.random_ranking(part),
        _ROUTER: choices.ranking_of(read.looks.sum(axis=-1)),
        **trained,
        "asked": choices.asked_ranking(part),
        **layers,
    }


def _row(
    network: Network,
    benchmark: TileBenchmark,
    rankings: Sequence[Rankings],
    how: Lookout,
    budget: Budget,
    name: str,
) -> dict[str, Any]:
    accuracies, flops = [], []
    for part, mine in zip(benchmark.parts, rankings, strict=True):
        crops = crops_of(name, part)
        if name in ("base", "all"):
            items = alike(part, (0,) if name == "base" else None)
        else:
            items = each_its_own(part, mine[name.split()[1]][:, : crops - 1])
        right = right_answers(network, part, items, budget, batch_size=how.batch_size)
        accuracies.append(right.reshape(len(part.pool), -1))
        flops.append(look_flops(network.config, part, budget, crops))
        flops[-1] += _choosing_flops(network.config, part, how, name)
    return {
        "look": name,
        "budget": budget.name,
        "end_to_end_flops": float(np.mean(flops)),
        **_means(benchmark, np.concatenate(accuracies)),
        "grids": {
            part.pool.recipe.name: {**_means(benchmark, each), "flops": cost}
            for part, each, cost in zip(benchmark.parts, accuracies, flops, strict=True)
        },
    }


def _endings(
    benchmark: TileBenchmark, part: PageBenchmark, each: climbing.Climb, at: float
) -> dict[str, list[float]]:
    """Returns the share of each group's questions whose last look is the nth."""
    last = each.last(at).reshape(len(part.pool), -1)
    found = [_means(benchmark, last == look) for look in range(len(each.flops))]
    return {group: [row[group] for row in found] for group in benchmark.groups}


def _means(benchmark: TileBenchmark, right: np.ndarray) -> dict[str, Any]:
    """Returns the accuracy of each task and group; right: (pages, tasks)."""
    names = benchmark.parts[0].form.book.task_names
    tasks = dict(zip(names, right.mean(axis=0).tolist(), strict=True))
    groups = {
        group: float(np.mean([tasks[name] for name in members]))
        for group, members in benchmark.groups.items()
    }
    return {"tasks": tasks, **groups}


def crops_of(look: str, part: PageBenchmark) -> int:
    """Returns how many crops of a part's pages a look of this name takes."""
    if look == "all":
        return part.form.patch_index.crops
    return 1 + (int(look.split()[0].removeprefix("base+")) if "+" in look else 0)


def image_slots(part: PageBenchmark, crops: int) -> int:
    """Returns the image tokens of a program for so many crops, padding included."""
    images, whole = part.form.images, part.form.patch_index.count
    tokens = crops * images.patches_per_crop + (crops - 1) * images.patches_per_side
    return min(tokens, whole)


def look_flops(
    config: VLMConfig, part: PageBenchmark, budget: Budget, crops: int
) -> int:
    """Returns the FLOPs of one question that looks at so many crops, end to end."""
    return account(
        config,
        budget,
        text_tokens=part.lengths.text_tokens,
        image_tokens=image_slots(part, crops),
        crops=crops,
        logit_positions=1,
    ).end_to_end


def _choosing_flops(
    config: VLMConfig, part: PageBenchmark, how: Lookout, name: str
) -> int:
    """Returns what it costs to choose the tiles of a row."""
    if not name.endswith((_ROUTER, _SCORER)):
        return 0
    own = _scorer_flops(config, part, how, name)
    return look_flops(config, part, how.router, 1) + own


def _scorer_flops(
    config: VLMConfig, part: PageBenchmark, how: Lookout, name: str
) -> int:
    """Returns what the scorer itself takes, beside its look; 0 for other rules."""
    if not name.endswith(_SCORER) or how.scorer is None:
        return 0
    tiles = part.form.patch_index.crops - 1
    return how.scorer.flops(width=config.decoder.width, tiles=tiles)


def dense_flops(config: VLMConfig, part: PageBenchmark) -> int:
    """Returns those of the dense network of the same size, with all crops."""
    network = dense(config)
    every = Budget.all(network.plan)
    return look_flops(network, part, every, part.form.patch_index.crops)


def _hit_rows(
    benchmark: TileBenchmark, rankings: Sequence[Rankings]
) -> list[dict[str, Any]]:
    """Returns how often all asked tiles are among the first k, by grid, rule and k.

    Of questions about one tile and of those about two, beside what chance would give.
    """
    rows = []
    for part, mine in zip(benchmark.parts, rankings, strict=True):
        asked = choices.tiles_of_questions(part)
        numbers = np.array([len(tiles) for tiles in asked])
        tiles = part.form.patch_index.crops - 1
        for rule, ranking in mine.items():
            for count in COUNTS:
                hit = choices.hits(ranking, asked, count)
                row = {"grid": part.pool.recipe.name, "rule": rule, "top": count}
                for number, key in ((1, "one_tile"), (2, "two_tiles")):
                    row[key] = float(hit[numbers == number].mean())
                    row[f"{key}_chance"] = choices.chance(tiles, number, count)
                rows.append(row)
    return rows
