"""What a scorer of tiles reads and learns from, against plain forward passes."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny, tolerances
from tests.analysis.looks.tiled_network import CONFIG
from visor_jax.analysis.looks import asking
from visor_jax.analysis.looks import scored_tiles as module
from visor_jax.analysis.looks.choices import random_ranking
from visor_jax.analysis.looks.scored_tiles import (
    right_with_two_tiles,
    scored_pages,
    tile_features,
)
from visor_jax.budget import Budget
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.models.vlm import begin_batch, run_rest, run_trunk
from visor_jax.policy.tile_scorer import blank_features

BUDGET = Budget.none()


@pytest.fixture(scope="module", params=[2, 3])
def part(request):
    """Two pages of as many tiles a side."""
    return TileBenchmark.make(4, batch_size=2).parts[request.param - 2]


def test_right_answers_are_as_probable_as_a_plain_pass_says(part, network):
    circles = random_ranking(part)
    columns = right_with_two_tiles(network, part, circles, BUDGET, batch_size=3)
    found = np.stack(list(columns), axis=1)
    tiles = part.form.patch_index.crops - 1
    assert found.shape == (len(part), tiles)
    gates = BUDGET.gates(CONFIG.plan)
    for question, place in ((0, 0), (5, 2), (12, tiles - 1)):
        pair = [circles[question, place], circles[question, (place + 1) % tiles]]
        items = asking.each_its_own(part, np.tile(pair, (len(part), 1)))
        batch, (row,), _ = next(asking.item_batches(part, items[question:][:1], 1))
        batch = jax.device_put(batch)

        def logits(module, batch=batch):
            done = run_rest(module, run_trunk(module, batch), gates)
            return module.logits(done.text)

        whole = network.vlm.apply({"params": network.params}, method=logits)
        log_probs = np.asarray(jax.nn.log_softmax(whole))[0]
        at = row.answer_places[0]
        # The answer's word and its end.
        expected = sum(log_probs[p, row.targets[p]] for p in (at, at + 1))
        np.testing.assert_allclose(
            np.log(found[question, place]), expected, **tolerances.REORDERED
        )


def test_what_is_read_is_that_of_a_plain_pass_over_the_base_view(part, network):
    found = tile_features(network, part, BUDGET, batch_size=2)
    items = asking.alike(part, (0,))
    batch, rows, _ = next(asking.item_batches(part, items, len(items)))
    batch = jax.device_put(batch)
    gates = BUDGET.gates(CONFIG.plan)

    def streams(module):
        begun = begin_batch(module, batch)
        return begun.image.hidden, run_rest(module, run_trunk(module, batch), gates)

    image, done = network.vlm.apply({"params": network.params}, method=streams)
    side = round((part.form.patch_index.crops - 1) ** 0.5)
    for number, row in enumerate(rows):
        mine = slice(8 * number, 8 * number + 8)
        words = np.asarray(done.text.hidden)[number][row.answer_places]
        np.testing.assert_allclose(found.question[mine], words, **tolerances.REORDERED)
        grid = np.asarray(image)[number].reshape(side, 6 // side, side, 6 // side, -1)
        tiles = grid.mean(axis=(1, 3)).reshape(side * side, -1)
        np.testing.assert_allclose(
            found.tiles[mine],
            np.broadcast_to(tiles, (8, *tiles.shape)),
            **tolerances.REORDERED,
        )


def test_a_prompt_of_its_own_is_read_as_a_scorer_learned(part, network):
    """What chooses tiles for an answer reads what the scorer was trained on."""
    params = tiny.perturbed(network.params, jax.random.key(3))
    network = dataclasses.replace(network, params=params)
    learned = tile_features(network, part, BUDGET, batch_size=2)
    chooser = network.looking_at("best+1", "as_all").processor.looking.chooser
    examples = list(part.examples())
    for number in (0, 5, 14):
        whole = network.processor.sample(examples[number].request, room=1)
        found = chooser.features(whole)
        for name in ("question", "tiles", "looks"):
            np.testing.assert_allclose(
                getattr(found, name)[0],
                getattr(learned, name)[number],
                **tolerances.REORDERED,
            )


def test_a_tile_is_worth_what_its_two_pairs_are(network, monkeypatch):
    """Of a question that needs tiles 1 and 2, they alone stand out."""

    def right(network, part, circles, budget, *, batch_size):
        for place in range(circles.shape[1]):
            pair = circles[:, [place, (place + 1) % circles.shape[1]]]
            yield (np.sort(pair) == [1, 2]).all(axis=1).astype(np.float32)

    monkeypatch.setattr(module, "right_with_two_tiles", right)
    read = blank_features(CONFIG.decoder.width)
    monkeypatch.setattr(module, "tile_features", lambda *_, **__: read)
    benchmark = TileBenchmark.make(60, batch_size=2)
    for _, worth in scored_pages(network, benchmark, BUDGET, batch_size=2):
        beside = worth.max(axis=1) > 0
        # Neighbours in a random circle: two of the tiles that are not 1.
        tiles = worth.shape[1]
        assert beside.mean() == pytest.approx(2 / (tiles - 1), abs=0.15)
        np.testing.assert_array_equal(worth[beside][:, :2], 0.5)
        assert not worth[:, 2:].any()
