"""Which tiles each question looks at: those it asks about, random ones, or a router's.

The router needs no training: where the token that predicts a question's answer looks in
the CROSS layers while only the base view is there (`scored_tiles`). Its attention to
the patches of the base view is summed per tile (`inference.routing.tiles_shown`), and
the tiles with the most are looked at.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from visor_jax.evals.pages.benchmark import PageBenchmark

# Of the controls, for every network alike.
_SEED = 0


def tiles_of_questions(part: PageBenchmark) -> list[tuple[int, ...]]:
    """Returns the tiles that hold each question's answer, from 1; () for easy ones."""
    found: list[tuple[int, ...]] = []
    for page in range(len(part.pool)):
        facts = part.pool.facts[page : page + 1]
        for question in part.questions(page).tolist():
            tiles = part.form.book.questions[question].tiles
            mine = () if tiles is None else tuple((tiles(facts)[0] + 1).tolist())
            found.append(mine)
    return found


def random_ranking(part: PageBenchmark) -> Int[np.ndarray, "questions tiles"]:
    """Returns all tiles of each question's page, from 1, in a random order."""
    tiles, questions = part.form.patch_index.crops - 1, len(part)
    order = np.random.default_rng([_SEED, tiles]).random((questions, tiles))
    return order.argsort(axis=1) + 1


def asked_ranking(part: PageBenchmark) -> Int[np.ndarray, "questions tiles"]:
    """Returns the tiles that a question asks about first, the others as they come."""
    ranking = random_ranking(part)
    for row, tiles in zip(ranking, tiles_of_questions(part), strict=True):
        others = [tile for tile in row.tolist() if tile not in tiles]
        row[:] = [*tiles, *others]
    return ranking


def ranking_of(scores: Float[np.ndarray, "questions tiles"]) -> np.ndarray:
    """Returns the tiles of each question, from 1, by their scores, best first."""
    return np.argsort(-scores, axis=1, kind="stable") + 1


def hits(
    ranking: Int[np.ndarray, "questions tiles"],
    asked: Sequence[tuple[int, ...]],
    count: int,
) -> Bool[np.ndarray, "questions"]:
    """Returns whether all tiles that a question asks about are among the first ones.

    False for questions that ask about none.
    """
    return np.array(
        [
            bool(tiles) and set(tiles) <= set(row[:count].tolist())
            for row, tiles in zip(ranking, asked, strict=True)
        ]
    )


def chance(tiles: int, asked: int, count: int) -> float:
    """Returns how often so many random tiles hold all that a question asks about."""
    if asked > count:
        return 0.0
    share = 1.0
    for taken in range(asked):
        share *= (count - taken) / (tiles - taken)
    return share
