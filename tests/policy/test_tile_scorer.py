"""A scorer of tiles: what it can learn, what it costs."""

import jax
import numpy as np
import pytest

from tests import tolerances
from tests.flops.jaxpr_flops import count_flops
from visor_jax.policy import tile_scorer
from visor_jax.policy.tile_scorer import (
    ScorerTraining,
    TileFeatures,
    TileScorer,
    TrainedScorer,
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
    scorer = train_scorer(scored, QUICK, SCORER)
    for tiles in (4, 9):
        features, _, asked = questions_about_colours(200, tiles, 100 + tiles)
        found = scorer.scores(features).argmax(axis=1)
        assert (found == asked).mean() > 0.9


def test_its_choice_is_the_optimum_of_the_loss():
    """softmax(p / entropy weight), which follows from the loss's derivative."""
    features, _, _ = questions_about_colours(1, 4, 0)
    right = np.array([[0.5, 0.6, 0.2, 0.9]], np.float32)
    training = ScorerTraining(
        steps=3000, batch_size=1, entropy_weight=0.25, weight_decay=0.0
    )
    scores = train_scorer([(features, right)], training, SCORER).scores(features)
    expected = jax.nn.softmax(right / 0.25)
    np.testing.assert_allclose(jax.nn.softmax(scores), expected, **tolerances.FITTED)


def test_scores_do_not_depend_on_the_order_of_tiles_or_the_size_of_features():
    features, right, _ = questions_about_colours(50, 4, 0)
    scorer = train_scorer([(features, right)], ScorerTraining(steps=50), SCORER)
    scores = scorer.scores(features)
    order = np.array([2, 0, 3, 1])
    moved = TileFeatures(
        question=10 * features.question,
        tiles=3 * features.tiles[:, order],
        looks=features.looks[:, order],
    )
    again = scorer.scores(moved)
    # Nor on what an untrained router goes by.
    other = scorer.scores(features.replace(looks=1 - features.looks))
    np.testing.assert_array_equal(other, scores)
    np.testing.assert_allclose(again, scores[:, order], **tolerances.REORDERED)


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (np.zeros((0, 4), np.float32), "there are none"),
        (np.full((5, 9), 0.5, np.float32), r"\(5, 4\) questions and tiles"),
        (np.full((5, 4), 1.5, np.float32), "not in 0..1"),
        (np.full((5, 4), np.nan, np.float32), "not in 0..1"),
    ],
)
def test_what_it_cannot_learn_from_is_said(right, message):
    features, _, _ = questions_about_colours(5, 4, 0)
    with pytest.raises(ValueError, match=message):
        train_scorer([(features, right)], QUICK, SCORER)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"entropy_weight": -1.0}],
)
def test_settings_that_train_nothing_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        ScorerTraining(**wrong)


@pytest.mark.parametrize("tiles", [4, 9])
def test_its_flops_are_those_of_the_traced_program(tiles):
    features, _, _ = questions_about_colours(1, tiles, 0)
    params = SCORER.init(jax.random.key(0), features)["params"]
    counted = count_flops(SCORER.apply, {"params": params}, features)
    scorer = TrainedScorer(module=SCORER, params=params)
    assert scorer.flops(width=12, tiles=tiles) == counted


def test_one_program_serves_grids_of_several_sizes():
    features, right, _ = questions_about_colours(50, 8, 0)
    scorer = train_scorer([(features, right)], ScorerTraining(steps=5), SCORER)
    of_all = scorer.scores(features)
    for tiles in (5, 6, 7):
        few = features.replace(
            tiles=features.tiles[:, :tiles], looks=features.looks[:, :tiles]
        )
        before = tile_scorer._scores.cache_size()
        np.testing.assert_array_equal(scorer.scores(few), of_all[:, :tiles])
        assert tile_scorer._scores.cache_size() == before
