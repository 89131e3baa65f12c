"""crops='best+2': which tiles the base view says are asked about, and their answers."""

import dataclasses
import logging

import flax.serialization
import jax
import numpy as np
import pytest

from tests import tiny
from tests.data.tiny_llava import question
from tests.inference.engine.test_looks import IMAGES, SMALL, model
from tests.models.test_crop_subsets import PER_CROP, PROCESSOR, WHOLE
from tests.tolerances import REORDERED
from visor_jax.analysis.cross_attention_maps import cross_attention_maps
from visor_jax.budget import Budget
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.looking import CropRule
from visor_jax.data.prompts.request import Request
from visor_jax.flops.account import account
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.inference.routing.scorer_file import SCORER_FILE, ScorerFile
from visor_jax.inference.routing.tile_chooser import BestTiles, tile_of_patches
from visor_jax.inference.visor_model import VisorModel
from visor_jax.policy.tile_scorer import TileFeatures, TileScorer, TrainedScorer

ASKED = Request(question("Why?"), [IMAGES[0]])
TILES = 4


def chooser_of(network, count=1):
    looking = network.looking_at(f"best+{count}").processor.looking
    assert isinstance(looking, BestTiles)
    return looking.chooser


def scorer_that_wants(tile, network):
    """Returns a scorer whose choice is one tile, whatever it reads."""

    class Fixed(TrainedScorer):
        def scores(self, features):
            return np.eye(features.looks.shape[1])[[tile - 1]]

    return Fixed(module=TileScorer(3), params={})


@pytest.mark.parametrize(
    ("height", "width"), [(28, 28), (14, 28), (28, 14), (42, 10), (12, 42), (30, 25)]
)
def test_a_patch_shows_the_tile_that_has_its_pixels(height, width):
    """Colours of the picture say where every pixel of it is; padding has no blue."""
    y, x = np.indices((height, width))
    place = [40 + 200 * x / width, 40 + 200 * y / height, np.full(x.shape, 255)]
    image = np.stack(place, axis=-1).astype(np.uint8)
    sample = PROCESSOR.prompt(question("?"), images=[image])
    base, tiles = sample.crops[0], sample.crops[1:]
    found = tile_of_patches(sample.patch_index, PER_CROP).reshape(3, 3)
    blue = base[..., 2].min()
    for row, column in np.ndindex(3, 3):
        # Patches of 4 pixels, in a crop of 14.
        part = base[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, :2]
        part = part.reshape(-1, 2)
        tile = tiles[found[row, column] - 1]
        inside = tile[np.isclose(tile[..., 2], blue, atol=0.05)][:, :2]
        # The middle of the patch lies in the tile, or a part of it does on its border.
        half = (part.max(axis=0) - part.min(axis=0)) / 2
        assert (part.mean(axis=0) >= inside.min(axis=0) - half).all()
        assert (part.mean(axis=0) <= inside.max(axis=0) + half).all()
    assert set(found.reshape(-1)) <= set(range(1, sample.num_crops))


def test_what_is_no_base_view_and_tiles_is_said():
    with pytest.raises(ValueError, match="are no base view of 9 and rows of tiles"):
        tile_of_patches(WHOLE[3].patch_index, PER_CROP)


def test_the_best_tiles_are_those_that_cross_layers_look_at():
    network = model().network
    chooser, whole = chooser_of(network), WHOLE[0]
    base = whole.of_crops((0,), PER_CROP)
    batch = chooser.buckets.batch([base], chooser.buckets.choose(base))
    maps = cross_attention_maps(network, batch, Budget.none())
    shown = tile_of_patches(whole.patch_index, PER_CROP)
    expected = [
        sum(weights[0, :PER_CROP][shown == tile].sum() for weights in maps.values())
        for tile in range(1, TILES + 1)
    ]
    np.testing.assert_allclose(chooser.scores(whole), expected, **REORDERED)
    order = np.argsort(expected)[::-1] + 1
    assert chooser.best(whole, 1) == (order[0],)
    assert chooser.best(whole, 3) == tuple(sorted(order[:3]))


def best_tiles(request, count):
    network = model().network
    whole = network.processor.sample(request, room=4)
    return ",".join(map(str, chooser_of(network).best(whole, count)))


def test_answers_are_those_of_the_named_tiles():
    named = f"base+2:{best_tiles(ASKED, 2)}"
    expected = model().generate(ASKED.images, ASKED.prompt, crops=named)
    asked = {"images": ASKED.images, "prompt": ASKED.prompt, "crops": "best+2"}
    assert model().generate(**asked) == expected
    assert "".join(model().stream(**asked)) == expected
    read = model().read(ASKED, crops="best+2")
    tiles = [int(tile) for tile in named.partition(":")[2].split(",")]
    base = account(
        model().config,
        Budget.none(),
        text_tokens=read.batch.text_mask.sum(),
        image_tokens=PER_CROP,
        crops=1,
        logit_positions=1,
    )
    assert read.looked_at == {
        "asked": "best+2",
        "crops": [0, *tiles],
        "of": TILES + 1,
        "rule": "as_all",
        "chosen_by": "attention",
        "choosing_flops": base.tower.total + base.projector + base.llm_prefill,
    }
    # All there are need no choice, and more than that are said to be none.
    for count in (TILES, TILES + 1):
        seen = model().read(ASKED, crops=f"best+{count}").looked_at
        assert seen["crops"] == [0, 1, 2, 3, 4]
        assert "chosen_by" not in seen
        assert ("note" in seen) == (count > TILES)


def test_in_an_engine_beside_other_looks():
    requests = [
        dataclasses.replace(ASKED, options=AnswerOptions(crops=crops))
        for crops in ("best+2", "base", "base+2:2,3", "best+1")
    ]
    looks = ["best+2", "best+1", 2, "base"]
    engine = model().engine("none", looks=looks, config=SMALL)
    read_base_view.clear_cache()
    engine.warm_up()
    compiled = read_base_view.cache_size()
    assert compiled
    answers = engine.answer_all(requests)
    assert [answer.error for answer in answers] == [None] * len(requests)
    alone = model().generate_all(requests, "none")
    assert [answer.text for answer in answers] == alone
    # What chooses tiles was compiled before anybody asked.
    assert read_base_view.cache_size() == compiled
    first, last = answers[0], answers[-1]
    assert first.looked_at["crops"] == [0, *map(int, best_tiles(ASKED, 2).split(","))]
    for answer in (first, last):
        flops = flops_of(answer, model().vlm)
        assert flops["choosing"] == answer.looked_at["choosing_flops"] > 0
    assert "choosing" not in flops_of(answers[1], model().vlm)
    (refused,) = (
        model().engine("none", looks=[2], config=SMALL).answer_all(requests[:1])
    )
    assert "none of the engine's looks" in refused.error


def test_a_kept_scorer_chooses(tmp_path):
    class Kept(ScorerFile):
        def read(self):
            return scorer_that_wants(3, model().network)

    file = Kept(tmp_path / SCORER_FILE, 1)
    network = dataclasses.replace(model().network, scorer_file=file)
    seen = VisorModel(network).read(ASKED, crops="best+1").looked_at
    assert (seen["crops"], seen["chosen_by"]) == ([0, 3], "scorer")
    plain = model().read(ASKED, crops="best+1").looked_at["choosing_flops"]
    width, layers = network.config.decoder.width, len(network.config.plan.cross_layers)
    own = 2 * 3 * (width + TILES * (width + layers + 3 + 1))
    assert seen["choosing_flops"] == plain + own


def test_a_scorer_comes_back_from_its_file(tmp_path, caplog):
    draw = np.random.default_rng(0).random
    features = TileFeatures(
        question=draw((2, 8), np.float32),
        tiles=draw((2, 4, 8), np.float32),
        looks=draw((2, 4, 3), np.float32),
    )
    module = TileScorer(5)
    params = module.init(jax.random.key(0), features)["params"]
    # New ones score all alike.
    params = jax.tree.map(lambda x: x + 0.1, params)
    file = ScorerFile.beside(tmp_path / "checkpoints" / "7")
    assert file == ScorerFile(tmp_path / SCORER_FILE, 7)
    assert file.read() is None
    scorer = TrainedScorer(module=module, params=params)
    file.write(scorer)
    np.testing.assert_array_equal(file.read().scores(features), scorer.scores(features))
    with caplog.at_level(logging.WARNING):
        assert ScorerFile(file.path, 8).read() is None
    assert "is of step 7, and this is step 8" in caplog.text
    for wrong in (b"no", flax.serialization.msgpack_serialize({"step": 7})):
        file.path.write_bytes(wrong)
        with pytest.raises(ValueError, match="holds no scorer of tiles"):
            file.read()


def test_networks_that_cannot_choose_say_so():
    untrained = dataclasses.replace(
        model().network, config=model().config.replace(any_crops=False)
    )
    with pytest.raises(ValueError, match="was not trained on some crops"):
        untrained.looking_at("best+1")
    assert untrained.looking_at("best+1", "as_all").processor.looking.crops.best
    with pytest.raises(ValueError, match="is for the base view alone"):
        untrained.looking_at("best+1", CropRule.ALONE.value)
    config = tiny.NETWORKS["dense"].replace(any_crops=True)
    dense = dataclasses.replace(
        model().network,
        config=config,
        budgets=dataclasses.replace(
            model().network.budgets,
            plan=config.plan,
            budgets=(Budget.all(config.plan),),
        ),
    )
    with pytest.raises(ValueError, match="this network has none: name tiles"):
        dense.looking_at("best+1")
