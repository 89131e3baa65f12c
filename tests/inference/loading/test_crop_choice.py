"""`crops=` of a loaded LLaVA-OneVision: what is looked at, by which rule, errors."""

import logging

import numpy as np
import pytest

import visor_jax
from tests.data.prompts import prompt_cases
from tests.data.tiny_llava import question, random_image
from tests.inference import chat_run
from visor_jax.data.prompts.looking import CropRule
from visor_jax.data.prompts.request import Request
from visor_jax.inference.loading.crop_choice import rule_for
from visor_jax.inference.loading.engine_looks import engine_looks
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look import ALL, BASE, Crops, crops_of

TILE = prompt_cases.TILES[0]
LIMIT = {"max_new_tokens": 4}
IMAGE = random_image(TILE + 4, 2 * TILE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return visor_jax.load(chat_run.save(tmp_path_factory.mktemp("tiny"), TILE))


def read(model, crops, images=1):
    request = Request(question(images=images), [IMAGE] * images)
    return model.read(request, crops=crops, **LIMIT)


def test_the_base_view_is_one_crop_and_the_answer_says_so(model, caplog):
    with caplog.at_level(logging.WARNING):
        base = read(model, "base")
    assert "base is shown to it by the rule 'alone'" in caplog.text
    whole = read(model, None)
    of = int(np.any(whole.batch.pixels[0], axis=(1, 2, 3)).sum())
    assert base.looked_at == {
        "asked": "base",
        "crops": [0],
        "of": of,
        "rule": "alone",
    }
    # One crop goes through the tower, not a bucket of several.
    assert base.batch.pixels.shape[1] == 1
    np.testing.assert_array_equal(base.batch.pixels[0, 0], whole.batch.pixels[0, 0])
    assert whole.looked_at is None
    answer = model.generate(IMAGE, "Why?", crops="base", **LIMIT)
    streamed = model.stream(IMAGE, "Why?", crops="base", **LIMIT)
    assert "".join(streamed) == answer


def test_all_crops_are_the_network_as_it_was(model):
    assert model.network.looking_at("all") is model.network
    plain, every = read(model, None).batch, read(model, "all").batch
    np.testing.assert_array_equal(plain.pixels, every.pixels)
    np.testing.assert_array_equal(plain.image_positions, every.image_positions)


def test_tiles_beside_the_base_view(model):
    """Untrained by the rule that is asked for; more than there are is all, and said."""
    network = model.network.looking_at(1, "as_all")
    looking = VisorModel(network)
    sample = network.processor.sample(Request(question(), [IMAGE]), room=4)
    assert sample.looked_at == (0, 1)
    report = network.processor.looking.report(sample)
    assert (report["asked"], report["rule"]) == ("base+1", "as_all")
    assert looking.read(Request(question(), [IMAGE]), **LIMIT).looked_at == report
    many = model.network.looking_at(99, "as_all").processor
    sample = many.sample(Request(question(), [IMAGE]), room=4)
    report = many.looking.report(sample)
    assert report["crops"] == list(range(report["of"]))
    assert report["rule"] is None
    assert "no more than" in report["note"]


def test_several_images_are_looked_at_as_they_are(model):
    found = read(model, "base", images=2).looked_at
    assert "as it is" in found["note"]
    assert found["crops"] == [0, 1]


def test_what_callers_may_say():
    assert crops_of(None) == crops_of("all") == ALL
    assert crops_of("base") == BASE
    assert crops_of(2) == crops_of("2") == crops_of("base+2") == Crops(2)
    for none in (0, "0", -1, "-3"):
        with pytest.raises(ValueError, match="from 1 on; write 'base'"):
            crops_of(none)
    with pytest.raises(ValueError, match="Unknown crops 'tiles'"):
        crops_of("tiles")
    for wrong in (1.5, True, ["base"]):
        with pytest.raises(ValueError, match="neither a name"):
            crops_of(wrong)


def test_rules(model):
    plain = model.config
    trained = plain.replace(any_crops=True)
    assert rule_for(trained, Crops(2)) is rule_for(trained, BASE) is CropRule.AS_ALL
    assert rule_for(plain, BASE) is CropRule.ALONE
    assert rule_for(plain, Crops(2), "as_all") is CropRule.AS_ALL
    with pytest.raises(ValueError, match=r"'base\+2'.*data\.any_crops=True"):
        rule_for(plain, Crops(2))
    with pytest.raises(ValueError, match="Unknown rule 'near'"):
        rule_for(plain, BASE, "near")
    with pytest.raises(ValueError, match="for the base view alone"):
        model.network.looking_at(2, "alone")


def test_an_engine_looks_as_its_network_does(model):
    request = Request(question("Why?"), [IMAGE])
    base = VisorModel(model.network.looking_at("base", "as_all"))
    (expected,) = base.generate_all([request], **LIMIT)
    (answer,) = base.engine().answers([request], **LIMIT)
    assert (answer.text, answer.crops) == (expected, 1)
    assert answer.looked_at["crops"] == [0]


def test_an_engine_has_the_buckets_of_its_looks(model):
    plain = model.processor.buckets.all
    assert engine_looks(model.network).processor is model.processor
    shown = engine_looks(model.network.looking_at("base+1:2", "as_all"))
    assert list(shown.asked) == ["base+1"]
    more = [b for b in shown.processor.buckets.all if b not in plain and b.crops == 2]
    # Programs of rows with gaps are none of those without.
    assert {bucket.gaps for bucket in more} == {False, True}
    request = Request(question("Why?"), [IMAGE])
    for crops, gaps in (("base+1:2", True), ("base", False)):
        network = model.network.looking_at(crops, "as_all")
        sample = network.processor.sample(request, room=4)
        assert sample.has_gaps == gaps
        assert shown.processor.buckets.choose(sample).gaps == gaps
