"""A scorer of tiles: what it can learn, what it costs."""

import jax
import numpy as np
import pytest

from tests.flops.jaxpr_flops import count_flops
from visor_jax.policy.tile_scorer import (
    ScorerTraining,
    TileFeatures,
    TileScorer,
    scorer_flops,
    tile_scores,
    train_scorer,
)

SCORER = TileScorer(width=32)
QUICK = ScorerTraining(steps=600, batch_size=64)


def questions_about_colours(count, tiles, seed, width=12):
    """Questions name a colour; the answer is likely with the tile that has it."""
    draw = np.random.default_rng(seed)
    colours = np.eye(width, dtype=np.float32)[: tiles + 2]
    codes = np.stack([draw.permutation(len(colours))[:tiles] for _ in range(count)])
    asked = draw.integers(tiles, size=count)
    noise = 0.1 * draw.standard_normal((count, tiles, width))
    features = TileFeatures(
        question=colours[codes[np.arange(count), asked]],
        tiles=(colours[codes] + noise).astype(np.float32),
        looks=np.full((count, tiles, 2), 1 / tiles, np.float32),
    )
    right = np.where(np.arange(tiles) == asked[:, None], 0.9, 0.2).astype(np.float32)
    return features, right, asked


def test_it_finds_the_tile_that_makes_answers_right_in_pages_of_any_size():
    scored = [questions_about_colours(600, tiles, tiles)[:2] for tiles in (4, 9)]
    params = train_scorer(scored, QUICK, SCORER)
    for tiles in (4, 9):
        features, _, asked = questions_about_colours(200, tiles, 100 + tiles)
        found = tile_scores(SCORER, params, features).argmax(axis=1)
        assert (found == asked).mean() > 0.9


def test_it_finds_nothing_where_answers_depend_on_no_tile():
    features, right, asked = questions_about_colours(600, 4, 0)
    params = train_scorer([(features, np.full_like(right, 0.5))], QUICK, SCORER)
    other, _, asked = questions_about_colours(400, 4, 1)
    found = tile_scores(SCORER, params, other).argmax(axis=1)
    assert (found == asked).mean() < 0.5


def test_scores_do_not_depend_on_the_order_of_tiles_or_the_size_of_features():
    features, right, _ = questions_about_colours(50, 4, 0)
    params = train_scorer([(features, right)], ScorerTraining(steps=50), SCORER)
    scores = tile_scores(SCORER, params, features)
    order = np.array([2, 0, 3, 1])
    moved = TileFeatures(
        question=10 * features.question,
        tiles=3 * features.tiles[:, order],
        looks=features.looks[:, order],
    )
    again = tile_scores(SCORER, params, moved)
    np.testing.assert_allclose(again, scores[:, order], atol=1e-5)


def test_without_questions_there_is_nothing_to_learn_from():
    with pytest.raises(ValueError, match="there are none"):
        train_scorer([], QUICK, SCORER)


@pytest.mark.parametrize("tiles", [4, 9])
def test_its_flops_are_those_of_the_traced_program(tiles):
    features, _, _ = questions_about_colours(1, tiles, 0)
    params = SCORER.init(jax.random.key(0), features)["params"]
    counted = count_flops(SCORER.apply, {"params": params}, features)
    assert scorer_flops(SCORER, width=12, tiles=tiles, cross_layers=2) == counted
