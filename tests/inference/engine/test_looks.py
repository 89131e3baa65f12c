"""Mixed looks in one engine: as one by one, and no crop is encoded unasked."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.data import tiny_llava
from tests.data.tiny_llava import question, random_image
from tests.models.test_crop_subsets import BUCKET, PROCESSOR, SETTINGS, network
from visor_jax.budget import BudgetSet
from visor_jax.data.buckets import Buckets
from visor_jax.data.images import cut_image
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.loading.network import Network
from visor_jax.inference.visor_model import VisorModel

NEW_TOKENS = 4
CONFIG = network("visor").replace(any_crops=True)
IMAGES = [random_image(28, 28, seed) for seed in (1, 2)]
LOOKS = ("all", "base", "base+2:1,4", "base", "base+2", "base+2:2,3")
# Two images of five crops, each for two questions in turn.
REQUESTS = [
    Request(
        question(f"Why {n}?"),
        [IMAGES[(n // 2) % 2]],
        options=AnswerOptions(crops=crops, budget="all" if n == 2 else "none"),
    )
    for n, crops in enumerate((*LOOKS, "base", "all"))
]
SMALL = EngineConfig(
    rows=1,
    pending=4,
    slots=4,
    requests_per_row=1,
    tokens_per_turn=2,
    new_tokens=NEW_TOKENS,
    images_at_once=1,
)


@functools.cache
def model() -> VisorModel:
    params = tiny.perturbed(tiny.params_of(CONFIG), jax.random.key(7), 0.4)["params"]
    processor = Processor(
        prompts=PROCESSOR,
        buckets=Buckets([BUCKET], SETTINGS, pad_id=tiny_llava.PAD),
        eos_ids=(tiny_llava.END,),
        pad_id=tiny_llava.PAD,
        new_tokens=NEW_TOKENS,
    )
    return VisorModel(
        Network(
            config=CONFIG,
            params=params,
            budgets=BudgetSet.parse(["none", "all"], CONFIG.plan),
            processor=processor,
            metadata={},
        )
    )


def watched(engine, monkeypatch):
    """Returns the pixels that the engine's programs encode, as they come."""
    seen, encode = [], engine.programs.encode

    def watching(shape, images):
        program = encode(shape, images)

        def run(params, pixels, *rest):
            seen.append(np.asarray(pixels))
            return program(params, pixels, *rest)

        return run

    monkeypatch.setattr(engine.programs, "encode", watching)
    return seen


def test_mixed_looks_are_answered_as_alone(monkeypatch):
    engine = model().engine("none", budgets=["all"], looks=[2, "base"], config=SMALL)
    pixels = watched(engine, monkeypatch)
    answers = engine.answer_all(REQUESTS)
    assert [answer.error for answer in answers] == [None] * len(REQUESTS)
    alone = [
        model().generate(
            request.images,
            request.prompt,
            request.options.budget,
            crops=request.options.crops,
        )
        for request in REQUESTS
    ]
    assert [answer.text for answer in answers] == alone
    assert len(set(alone)) > 3
    # What the looks say of their crops, and what went through the tower.
    crops = [5, 1, 3, 1, 3, 3, 1, 5]
    assert [answer.crops for answer in answers] == crops
    seen = [None, [0], [0, 1, 4], [0], [0, 1, 2], [0, 2, 3], [0], None]
    assert [a.looked_at and a.looked_at["crops"] for a in answers] == seen
    # An image is shared by questions that look at the same of it.
    assert [answer.number for answer in answers if not answer.encoded] == [6]
    encoded = sum(answer.crops for answer in answers if answer.encoded)
    there = [int(np.any(p, axis=(-3, -2, -1)).sum()) for p in pixels]
    assert engine.scheduler.images.crops_run == encoded == sum(there)
    # Nor is there room for more in the programs.
    assert there == [p.shape[1] for p in pixels]
    towers = [flops_of(answer, model().vlm)["tower"] for answer in answers]
    paid = [a.crops if a.encoded else 0 for a in answers]
    assert towers == [count * towers[1] for count in paid]
    again = engine.answer_all(REQUESTS)
    assert [answer.text for answer in again] == alone
    assert engine.scheduler.images.crops_run == encoded
    assert not any(answer.encoded for answer in again)


def test_a_picture_is_cut_once_for_all_questions_about_it(monkeypatch):
    cuts, cut = [], cut_image.cut_image

    def counted(pixels, settings):
        cuts.append(pixels)
        return cut(pixels, settings)

    monkeypatch.setattr(cut_image, "cut_image", counted)

    def cuts_of(engine):
        before = len(cuts)
        engine.answer_all(REQUESTS[:4])
        return len(cuts) - before

    how = {"budgets": ["all"], "looks": [2, "base"], "config": SMALL}
    engine = model().engine("none", **how)
    assert [cuts_of(engine), cuts_of(engine)] == [2, 0]
    engine.forget_images()
    assert cuts_of(engine) == 2
    assert cuts_of(model().engine("none", images_kept=0, **how)) == 4


def test_requests_say_their_crops_in_one_call():
    found = model().generate_all(REQUESTS[:4], batch_size=4, crops="base")
    for text, request in zip(found, REQUESTS, strict=False):
        said = {"budget": request.options.budget, "crops": request.options.crops}
        assert text == model().generate(request.images, request.prompt, **said)


def test_a_look_of_all_requests_brings_the_programs_of_one_that_some_ask_for():
    of_all, of_some, of_none = (
        model().engine("none", config=SMALL, **how).processor.buckets.all
        for how in ({"crops": "base"}, {"looks": ["base"]}, {})
    )
    assert of_all == of_some
    assert {bucket.crops for bucket in of_all} == {1, BUCKET.crops}
    assert {bucket.crops for bucket in of_none} == {BUCKET.crops}


def test_what_an_engine_was_not_told_of_is_an_error():
    engine = model().engine("none", crops="base", config=SMALL)
    options = AnswerOptions(crops=2)
    request = dataclasses.replace(REQUESTS[0], options=options)
    with pytest.raises(
        ValueError, match=r"'base\+2' are none of .* all, base\. .*looks="
    ):
        engine.scheduler.queue._preparation.prepare(0, request, NEW_TOKENS)
    with pytest.raises(ValueError, match="crops=0: a number counts tiles"):
        AnswerOptions(crops=0)
    with pytest.raises(ValueError, match="Unknown crops 'tiles'"):
        model().engine("none", looks=["tiles"])
