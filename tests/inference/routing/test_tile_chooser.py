"""crops='best+2': which tiles the base view says are asked about, and their answers."""

import dataclasses
import functools
import logging

import flax.serialization
import jax
import numpy as np
import pytest

from tests import tiny
from tests.data.tiny_llava import image_settings, question, random_image, tokenizer
from tests.inference.engine.test_looks import IMAGES, SMALL, model
from tests.models.test_crop_subsets import PER_CROP, PROCESSOR, WHOLE
from tests.tolerances import REORDERED
from visor_jax.analysis.cross_attention_maps import cross_attention_maps
from visor_jax.budget import Budget
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.looking import CropRule
from visor_jax.data.prompts.request import Request
from visor_jax.flops.account import account
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.inference.routing.scorer_file import SCORER_FILE, ScorerFile
from visor_jax.inference.routing.tile_chooser import BestTiles
from visor_jax.inference.routing.tiles_shown import tile_of_patches
from visor_jax.inference.visor_model import VisorModel
from visor_jax.policy import tile_scorer
from visor_jax.policy.tile_scorer import TileScorer, TrainedScorer, blank_features

ASKED = Request(question("Why?"), [IMAGES[0]])
TILES = 4


def chooser_of(network, count=1):
    looking = network.looking_at(f"best+{count}").processor.looking
    assert isinstance(looking, BestTiles)
    return looking.chooser


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


@pytest.mark.parametrize("shape", [(219, 6), (6, 219), (9, 1), (1, 9)])
def test_an_image_that_is_too_thin_for_its_tiles_is_said(shape):
    """Of an even number of patches a side, padding may leave none; nobody looks."""
    settings = image_settings(tile=24, patch=4, side=6)
    processor = ChatProcessor(tokenizer=tokenizer(), images=settings)
    sample = processor.prompt(question("?"), images=[random_image(*shape)])
    with pytest.raises(ValueError, match="tiles cannot be chosen: look at 'base'"):
        tile_of_patches(sample.patch_index, settings.patches_per_crop)


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


@functools.cache
def scorer():
    """A scorer for the network of these tests; no two of its scores are alike."""
    module = TileScorer(5)
    features = blank_features(model().config.decoder.width)
    params = module.init(jax.random.key(0), features)["params"]
    params = tiny.perturbed(params, jax.random.key(1), 0.5)
    return TrainedScorer(module=module, params=params)


def test_a_scorer_chooses_where_there_is_one():
    network = dataclasses.replace(model().network, scorer=scorer())
    assert network.fingerprint != model().fingerprint
    chooser, whole = chooser_of(network), WHOLE[0]
    expected = scorer().scores(chooser.features(whole))[0]
    best = int(expected.argmax()) + 1
    seen = VisorModel(network).read(ASKED, crops="best+1").looked_at
    assert seen["chosen_by"] == "scorer"
    plain = model().read(ASKED, crops="best+1").looked_at["choosing_flops"]
    own = (
        2
        * 5
        * (network.config.decoder.width + TILES * (network.config.decoder.width + 11))
    )
    assert seen["choosing_flops"] == plain + own
    assert chooser.best(whole, 1) == (best,)
    # A tile that no patch of the base view shows is not chosen.
    features = chooser.features(whole)
    hidden = features.tiles.copy()
    hidden[0, best - 1] = 0
    unseen = type(chooser)(**{**vars(chooser)})
    object.__setattr__(unseen, "features", lambda whole: features.replace(tiles=hidden))
    assert unseen.best(whole, 1) != (best,)


def test_an_engine_compiles_its_scorer_ahead():
    network = dataclasses.replace(model().network, scorer=scorer())
    tile_scorer._scores.clear_cache()
    engine = VisorModel(network).engine("none", crops="best+1", config=SMALL)
    engine.warm_up()
    compiled = tile_scorer._scores.cache_size()
    assert compiled
    (answer,) = engine.answer_all([ASKED])
    assert answer.text == VisorModel(network).generate(
        ASKED.images, ASKED.prompt, "none", crops="best+1"
    )
    assert answer.looked_at["asked"] == "best+1"
    assert tile_scorer._scores.cache_size() == compiled


def test_a_scorer_comes_back_from_its_file(tmp_path, caplog):
    config = model().config
    step = tmp_path / "checkpoints" / "7"
    step.mkdir(parents=True)
    (step / "_CHECKPOINT_METADATA").write_text("saved at noon")
    file = ScorerFile.beside(step)
    assert file.path == tmp_path / SCORER_FILE
    assert file.read(config) is None
    file.write(scorer())
    features = chooser_of(model().network).features(WHOLE[0])
    np.testing.assert_array_equal(
        file.read(config).scores(features), scorer().scores(features)
    )
    # Of another step, or of the same one trained anew.
    other = tmp_path / "checkpoints" / "8"
    with caplog.at_level(logging.WARNING):
        assert ScorerFile.beside(other).read(config) is None
        (step / "_CHECKPOINT_METADATA").write_text("saved at night")
        assert file.read(config) is None
    assert caplog.text.count("is of another network or another step") == 2


def test_what_is_no_scorer_of_the_network_is_said(tmp_path):
    file = ScorerFile.beside(tmp_path / "checkpoints" / "7")
    for wrong in (b"no", flax.serialization.msgpack_serialize({"width": 7})):
        file.path.write_bytes(wrong)
        with pytest.raises(ValueError, match="holds no scorer of tiles"):
            file.read(model().config)
    file.write(scorer())
    width = 2 * model().config.decoder.width
    wider = dataclasses.replace(model().config.decoder, width=width)
    with pytest.raises(ValueError, match="holds a scorer of sizes"):
        file.read(model().config.replace(decoder=wider))


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
