"""Which tiles are looked at, what is answered then, and what it costs."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from tests import tiny
from tests.analysis.looks.tiled_network import CONFIG
from tests.tolerances import REORDERED
from visor_jax import looks
from visor_jax.analysis.cross_attention_maps import cross_attention_maps
from visor_jax.analysis.looks import asking, choices, climbing, rows
from visor_jax.analysis.looks.climbing import Climb, right_and_sure
from visor_jax.analysis.looks.scored_tiles import tile_features
from visor_jax.budget import Budget
from visor_jax.evals.pages.tile_benchmark import TileBenchmark
from visor_jax.flops.account import account
from visor_jax.inference.routing.scorer_file import ScorerFile
from visor_jax.models.variants import dense
from visor_jax.ops.masks import last_valid
from visor_jax.policy.tile_scorer import (
    ScorerTraining,
    TileFeatures,
    TileScorer,
    TrainedScorer,
    train_scorer,
)


@pytest.fixture(scope="module")
def benchmark():
    return TileBenchmark.make(5, batch_size=2)


def test_chance_is_the_share_of_all_choices():
    for tiles, asked, count in itertools.product((4, 9), (1, 2), (1, 2, 3)):
        drawn = list(itertools.combinations(range(tiles), count))
        held = [set(range(asked)) <= set(each) for each in drawn]
        share = choices.chance(tiles, asked, count)
        assert share == pytest.approx(np.mean(held))


def test_hits_need_every_asked_tile():
    ranking = np.array([[3, 1, 2, 4]] * 4)
    asked = [(3,), (1,), (1, 3), ()]
    assert choices.hits(ranking, asked, 1).tolist() == [True, False, False, False]
    assert choices.hits(ranking, asked, 2).tolist() == [True, True, True, False]


def test_rankings_hold_every_tile_once_and_asked_ones_first(benchmark):
    for part in benchmark.parts:
        tiles = part.form.patch_index.crops - 1
        asked = choices.tiles_of_questions(part)
        for make in (choices.random_ranking, choices.asked_ranking):
            ranking = make(part)
            assert (np.sort(ranking, axis=1) == np.arange(1, tiles + 1)).all()
        for row, mine in zip(ranking.tolist(), asked, strict=True):
            assert tuple(row[: len(mine)]) == mine
    scores = np.array([[0.1, 0.5, 0.4, 0.0]])
    assert choices.ranking_of(scores).tolist() == [[2, 3, 1, 4]]


def test_the_router_looks_where_a_prompt_of_its_own_does(benchmark, network):
    part, budget = benchmark.parts[0], Budget.none()
    found = tile_features(network, part, budget, batch_size=2).looks
    assert found.shape[-1] == len(CONFIG.plan.cross_layers)
    examples = list(part.examples())
    for number in (0, 5, 14):
        sample = network.processor.sample(examples[number].request, room=1)
        buckets = network.processor.buckets
        sample = sample.of_crops([0], 36)
        batch = next(buckets.batches([sample])).batch
        maps = cross_attention_maps(network, batch, budget)
        for layer, weights in enumerate(maps.values()):
            base = weights[0, :36].reshape(2, 3, 2, 3).sum(axis=(1, 3)).reshape(-1)
            np.testing.assert_allclose(found[number, :, layer], base, atol=1e-5)


def fake_tokens(model, params, batch, gates):
    """Answers what is right, but for prompts that see no tile."""
    seen = np.asarray(batch.image_mask).sum(axis=1, keepdims=True)
    return np.where(seen > 36, np.asarray(batch.targets), 0)


@pytest.fixture
def answered(monkeypatch):
    monkeypatch.setattr(asking, "next_tokens", fake_tokens)


def test_an_answer_counts_if_it_is_right_and_ends(benchmark, network, monkeypatch):
    part, budget = benchmark.parts[0], Budget.none()
    items = asking.alike(part, None)
    end = part.form.book.eos_id

    def of(change):
        def answer(model, params, batch, gates):
            return change(np.array(batch.targets))

        monkeypatch.setattr(asking, "next_tokens", answer)
        return asking.right_answers(network, part, items, budget, batch_size=2)

    assert of(lambda targets: targets).tolist() == [True] * len(part)
    assert not of(lambda targets: np.where(targets == end, 5, targets)).any()
    assert not of(lambda targets: np.where(targets != end, targets + 1, end)).any()


def test_every_question_has_a_row_with_its_tiles(benchmark):
    part = benchmark.parts[1]
    tiles = np.array([[9, 2]] * len(part))
    items = asking.each_its_own(part, tiles)
    assert [item.page for item in items] == sorted([0, 1] * 8)
    batch, texts, kept = next(asking.item_batches(part, items, 20))
    assert (kept, batch.pixels.shape[:2]) == (16, (20, 3))
    ends = last_valid(batch_tags(batch))
    for row, (item, text) in enumerate(zip(items, texts, strict=False)):
        page = part.form.crops(part.pool.pages[item.page : item.page + 1])[0]
        np.testing.assert_array_equal(batch.pixels[row], page[[0, 2, 9]])
        assert ends[row] == text.answer_places[0] + 1
        assert batch.text_positions[row, 0] == 378


def batch_tags(batch):
    from visor_jax.models.vlm import text_tags

    return text_tags(batch.map(np.asarray))


def test_flops_are_those_of_the_crops_that_are_looked_at(benchmark):
    part, budget = benchmark.parts[1], Budget.all(CONFIG.plan)
    lengths = {"text_tokens": 5, "logit_positions": 1}
    for crops, tokens in ((1, 36), (2, 78), (3, 120), (10, 378)):
        whole = account(CONFIG, budget, image_tokens=tokens, crops=crops, **lengths)
        assert rows.look_flops(CONFIG, part, budget, crops) == whole.end_to_end
    assert rows.dense_flops(CONFIG, part) == whole.dense().end_to_end


def finds_asked_tiles(network, part, budget, *, batch_size):
    """Looks of every CROSS layer at the first tile that a question asks about."""
    ranking = choices.asked_ranking(part)
    looks = np.zeros((*ranking.shape, len(CONFIG.plan.cross_layers)), np.float32)
    for question, (first, *_) in enumerate(ranking.tolist()):
        looks[question, first - 1] = 1.0
    questions, tiles = ranking.shape
    return TileFeatures(
        question=np.zeros((questions, 64), np.float32),
        tiles=np.zeros((questions, tiles, 64), np.float32),
        looks=looks,
    )


def test_the_command_writes_every_row(tmp_path, network, answered, monkeypatch):
    monkeypatch.setattr(rows, "tile_features", finds_asked_tiles)
    monkeypatch.setattr(looks, "open_network", lambda path: network)
    looks.report_looks(str(tmp_path), pages=4, command="again")
    found = json.loads((tmp_path / "looks" / "looks.json").read_text())
    names = [row["look"] for row in found["rows"]]
    assert len(names) == 16
    assert names[:8] == [
        "base",
        *(f"base+{k} {r}" for k in (1, 2) for r in ("random", "router", "asked")),
        "all",
    ]
    by_name = dict(zip(names[:8], found["rows"], strict=False))
    assert by_name["base"]["easy"] == by_name["base"]["hard"] == 0
    assert by_name["base+1 asked"]["hard"] == by_name["all"]["easy"] == 1
    router, asked = by_name["base+1 router"], by_name["base+1 asked"]
    extra = router["end_to_end_flops"] - asked["end_to_end_flops"]
    assert extra == by_name["base"]["end_to_end_flops"]
    hit = next(h for h in found["hits"] if h["rule"] == "router" and h["top"] == 1)
    assert (hit["one_tile"], hit["two_tiles"], hit["one_tile_chance"]) == (1, 0, 0.25)
    table = (tmp_path / "looks" / "looks.md").read_text()
    assert table.count("\n| base+1 ") == 6
    assert "seed 7" in table


def test_a_trained_scorer_has_rows_of_its_own_and_pays_for_its_look(
    tmp_path, network, answered, monkeypatch
):
    def train(scored):
        # What every tile of every question comes to was looked at, of either size.
        shapes = [right.shape for _, right in scored]
        assert shapes == [(8, 4), (8, 9)]
        return train_scorer(scored, ScorerTraining(steps=3))

    monkeypatch.setattr(looks, "open_network", lambda path: network)
    monkeypatch.setattr(looks, "train_scorer", train)
    monkeypatch.setattr(rows, "tile_features", finds_asked_tiles)
    monkeypatch.setattr(TrainedScorer, "scores", lambda self, read: read.looks[..., 0])
    file = ScorerFile(tmp_path / "tile_scorer.msgpack", tmp_path / "5")
    network = dataclasses.replace(network, scorer_file=file)
    how = {"pages": 4, "scorer_pages": 2}
    found = looks.report_looks(str(tmp_path), **how)
    assert file.read(CONFIG) is None
    looks.report_looks(str(tmp_path), keep_scorer=True, **how)
    kept = file.read(CONFIG)
    assert kept.module == TileScorer()
    # What was kept is asked again without another training.
    network = dataclasses.replace(network, scorer=kept)
    again = looks.report_looks(str(tmp_path / "again"), pages=4)
    assert [row["look"] for row in again["rows"]] == [
        row["look"] for row in found["rows"]
    ]
    assert "kept beside the checkpoint" in " ".join(
        (tmp_path / "again" / "looks" / "looks.md").read_text().split()
    )
    by_name = {row["look"]: row["end_to_end_flops"] for row in found["rows"]}
    assert len(found["rows"]) == 20
    scorer = TrainedScorer(module=TileScorer(), params={})
    own = [scorer.flops(width=64, tiles=n) for n in (4, 9)]
    difference = by_name["base+1 scorer"] - by_name["base+1 router"]
    assert difference == pytest.approx(np.mean(own))
    hits = {(h["grid"], h["rule"], h["top"]): h["one_tile"] for h in found["hits"]}
    assert {hits[grid, "scorer", 1] for grid, _, _ in hits} == {1.0}
    assert "trained on 2 pages" in " ".join(
        (tmp_path / "looks" / "looks.md").read_text().split()
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scorer_pages": 1}, "--scorer_pages=1: pages come in 2 sizes"),
        ({"scorer_pages": -3}, "--scorer_pages=-3"),
        ({"scorer_pages": 8, "split": "policy"}, "--split=policy has the pages"),
        ({"scorer_pages": 8, "times": True}, "--times shows no scorer"),
        ({"keep_scorer": True}, "say --scorer_pages=256"),
    ],
)
def test_a_scorer_without_a_use_is_refused_before_any_work(tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        looks.report_looks(str(tmp_path), **asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {}}, "does not read tiled pages"),
        ({"config": dense(CONFIG)}, "has no CROSS layers"),
    ],
)
def test_other_networks_are_refused(tmp_path, network, changes, message, monkeypatch):
    other = dataclasses.replace(network, **changes)
    monkeypatch.setattr(looks, "open_network", lambda path: other)
    with pytest.raises(ValueError, match=message):
        looks.report_looks(str(tmp_path))
    assert not (tmp_path / "looks").exists()


def test_a_climb_ends_where_an_answer_is_sure():
    right = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
    sure = np.array([[0.2, 0.9, 0.1], [0.8, 0.1, 0.1], [0.2, 0.3, 0.1], [0.7, 0.8, 1]])
    found = Climb(right=right, sure=sure, flops=(10, 5, 100))
    assert found.last(0.8).tolist() == [1, 0, 2, 1]
    assert found.right_at(0.8).tolist() == [True, True, False, True]
    assert found.flops_at(0.8).tolist() == [15, 10, 115, 15]
    # A threshold that all or none reach.
    assert found.last(0.1).tolist() == [0] * 4
    assert found.last(1.1).tolist() == [2] * 4
    # What was handed in stays as it was.
    assert sure[0, 2] == 0.1


def test_answers_are_as_right_and_sure_as_a_plain_pass_says(benchmark, network):
    part, budget = benchmark.parts[0], Budget.none()
    params = tiny.perturbed(network.params, jax.random.key(5))
    network = dataclasses.replace(network, params=params)
    items = asking.alike(part, None)
    how = {"batch_size": 2}
    right, sure = right_and_sure(network, part, items, budget, **how)
    same = asking.right_answers(network, part, items, budget, **how)
    np.testing.assert_array_equal(right, same)
    batch, rows, kept = next(asking.item_batches(part, items, len(items)))
    assert kept == len(rows)
    batch = jax.device_put(batch)
    gates = budget.gates(CONFIG.plan)
    logits = network.vlm.apply({"params": params}, batch, gates).logits
    likeliest = np.asarray(jax.nn.softmax(logits)).max(axis=-1)
    for number, row in enumerate(rows):
        first, end = (likeliest[number][row.answer_places + i] for i in (0, 1))
        mine = sure[8 * number : 8 * number + 8]
        np.testing.assert_allclose(mine, np.sqrt(first * end), **REORDERED)


def test_a_climb_pays_for_every_look(network, monkeypatch):
    """Sure of nothing, questions see all crops, for the price of three looks."""
    benchmark = TileBenchmark.make(4, batch_size=2)
    monkeypatch.setattr(rows, "tile_features", finds_asked_tiles)
    how = rows.Lookout(
        budgets=network.budgets.budgets, router=Budget.none(), batch_size=2
    )
    found = rows.look_rows(network, benchmark, how)
    by_name = {(row["look"], row["budget"]): row for row in found["rows"]}
    largest = network.budgets.largest.name
    none, last = found["climbs"][0], found["climbs"][-1]
    assert [row["threshold"] for row in found["climbs"]] == list(climbing.THRESHOLDS)
    assert last["tiles_by"] == "router"
    looked_thrice = (
        by_name["all", largest]["end_to_end_flops"]
        + (by_name["base+2 router", largest]["end_to_end_flops"])
    )
    # A network that was never trained is sure of nothing.
    for row in (none, last):
        for group in ("easy", "hard"):
            assert row["looks"][group] == 3
            assert row["flops"][group] == pytest.approx(looked_thrice)
            for endings in row["grids"].values():
                assert endings[group] == [0, 0, 1]
            assert row[group] == by_name["all", largest][group]
