"""crops='auto@...': the base view, and all crops where that is unsure."""

import dataclasses

import numpy as np
import pytest

import visor_jax
from tests.data.prompts import prompt_cases
from tests.data.tiny_llava import question, random_image
from tests.inference import chat_run
from tests.inference.engine.test_looks import IMAGES as PAGES
from tests.inference.engine.test_looks import model as trained_on_crops
from tests.tolerances import REORDERED
from visor_jax.convert.__main__ import export_checkpoint, import_checkpoint
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.flops.account import account
from visor_jax.inference import looking_twice
from visor_jax.inference.looking_twice import LookedPrompt, answered_looks
from visor_jax.inference.routing.look_calibration import calibrated_looks
from visor_jax.look_cascade import LookCascade

TILE = prompt_cases.TILES[0]
COUNT = 4
# Synthetic images of one grid, so that all have the same programs.
REQUESTS = [
    Request(question(f"Why {seed}?"), [random_image(TILE + 4, 2 * TILE, seed)])
    for seed in range(6)
]
ALWAYS = LookCascade(1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chat_run.save(tmp_path_factory.mktemp("tiny"), TILE)


@pytest.fixture(scope="module")
def model(folder):
    """A LLaVA-OneVision in Hugging Face's format, trained on no crops of ours."""
    return visor_jax.load(folder)


def prompt_of(model, request, budget=None):
    return LookedPrompt(
        network=model.network.looking_at("base"),
        request=request,
        budget=model.budget(budget),
        max_new_tokens=COUNT,
    )


def counted(monkeypatch):
    """Returns the crops that go through the tower, as they come, filler left out."""
    seen = []

    def watching(way, batch_of):
        def run(*arguments, **how):
            pixels = np.asarray(batch_of(arguments).pixels)
            seen.append(int(np.any(pixels, axis=(-3, -2, -1)).sum()))
            return way(*arguments, **how)

        return run

    first, second = looking_twice.first_look, looking_twice.second_look
    monkeypatch.setattr(looking_twice, "first_look", watching(first, lambda a: a[2]))
    monkeypatch.setattr(
        looking_twice, "second_look", watching(second, lambda a: a[3].prompts)
    )
    return seen


def check_two_looks(model, request, monkeypatch, budget=None):
    """A sure first look is one at the base view, an unsure one ends as one at all."""
    how = {"budget": budget, "max_new_tokens": COUNT}
    base, whole = (
        model.generate(request.images, request.prompt, crops=crops, **how)
        for crops in ("base", "all")
    )
    seen = counted(monkeypatch)
    prompt = prompt_of(model, request, budget)
    first, second = answered_looks(prompt, ALWAYS)
    assert (first.text, second.text) == (base, whole)
    of = len(second.crops)
    assert of > 2
    assert seen == [first.encoded, second.encoded] == [1, of - 1]
    sure = answered_looks(prompt, LookCascade(first.confidence))
    assert sure == (first,)
    tower = account(
        model.config, model.budget(budget), text_tokens=1, image_tokens=1, crops=1
    ).tower.total
    # Besides the tower: the LLM reads text twice and the base view's tokens again.
    assert first.flops > tower
    assert second.flops > (of - 1) * tower
    return prompt


def test_a_checkpoint_that_never_saw_crops(model, monkeypatch):
    prompt = check_two_looks(model, REQUESTS[0], monkeypatch)
    assert prompt.first.text != prompt.second.text
    # Logits behind it, not the likeliest tokens alone.
    once = model.logits(REQUESTS[0].images, REQUESTS[0].prompt)[-1]
    log_probs = once - np.log(np.exp(once).sum())
    one = dataclasses.replace(prompt, max_new_tokens=1).second
    np.testing.assert_allclose(
        np.log(one.confidence), log_probs[one.tokens[0]], **REORDERED
    )


def test_a_network_that_was_trained_on_crops(monkeypatch):
    request = Request(question("Why?"), [PAGES[0]])
    for budget in ("none", "all"):
        with monkeypatch.context() as patch:
            check_two_looks(trained_on_crops(), request, patch, budget)


def test_calibrated_without_training_exported_and_imported(model, folder, tmp_path):
    """Agreement as counted by hand; the same answers of the checkpoint's copies."""
    budget = model.budget()
    found, looks = calibrated_looks(
        model.network, REQUESTS, budget, max_new_tokens=COUNT, agreement=0.8
    )
    texts = [
        model.generate_all(REQUESTS, crops=crops, max_new_tokens=COUNT)
        for crops in (found.name, "all", "base")
    ]
    cascade, whole, base = texts
    sent = looks.confidence < found.threshold
    assert cascade == [w if s else b for w, b, s in zip(whole, base, sent, strict=True)]
    agreement = np.mean([c == w for c, w in zip(cascade, whole, strict=True)])
    assert agreement >= 0.8
    # Fewer second looks would not do.
    fewer = found.threshold > looks.confidence.min()
    kept = np.sort(looks.confidence)[: sent.sum() - 1] if fewer else []
    less = np.isin(looks.confidence, kept)
    agrees = np.where(less, True, np.equal(base, whole))
    assert not fewer or agrees.mean() < 0.8
    import_checkpoint(str(folder), tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "again")
    for copy in (tmp_path / "run", tmp_path / "again"):
        copied = visor_jax.load(copy)
        how = {"crops": found.name, "max_new_tokens": COUNT}
        assert copied.generate_all(REQUESTS[:2], **how) == cascade[:2]


def test_what_cannot_be_looked_at_twice(model):
    with pytest.raises(ValueError, match=r"crops='auto' needs a threshold"):
        model.generate(crops="auto", prompt="Why?")
    for wrong in ("auto@2", "auto@0"):
        with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
            model.generate(crops=wrong, prompt="Why?")
    with pytest.raises(ValueError, match="'auto@x' is no cascade"):
        model.generate(crops="auto@x", prompt="Why?")
    with pytest.raises(ValueError, match=r"crops='auto@0\.5' looks twice"):
        model.read(REQUESTS[0], crops="auto@0.5")
    named = dataclasses.replace(REQUESTS[0], options=AnswerOptions(crops="base"))
    with pytest.raises(ValueError, match=r"Requests \[0\] name their crops"):
        model.generate_all([named], crops="auto@0.5")
    with pytest.raises(ValueError, match=r"Requests \[0\] have no image"):
        calibrated_looks(
            model.network, [Request("Why?")], model.budget(), max_new_tokens=2
        )
    for how, wrong in (({"cost": 1.0}, "cost"), ({"batch_size": 0}, "batch_size=0")):
        with pytest.raises(ValueError, match=wrong):
            model.generate_all([REQUESTS[0]], crops="auto@0.5", **how)
    # Text alone is looked at as it is.
    plain = model.generate(prompt="Why?", max_new_tokens=2)
    assert model.generate(prompt="Why?", max_new_tokens=2, crops="auto@1") == plain
