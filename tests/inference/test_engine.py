"""The engine against the plain path: one prompt, one budget, `generation.generate`."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_reader
from tests.inference.tiny_reader import Picture
from visor_jax.inference.choosers import HostChooser, fixed
from visor_jax.inference.decode import answers as cut
from visor_jax.inference.engine import Engine
from visor_jax.inference.generation import generate
from visor_jax.inference.programs import Sizes
from visor_jax.inference.reader import Request
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.vlm import VLM

CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    decoder=dataclasses.replace(tiny.DECODER, tie_embeddings=False),
    plan=LayerPlan.build(4, cross=(0, 2), self_=(1, 3)),
)
MODEL = VLM(CONFIG)
PARAMS = tiny.params_of(CONFIG)["params"]
BUDGETS = tuple(tiny.every_budget(CONFIG))
READER = tiny_reader.reader(CONFIG)
# Small, so that slots are freed and filled again and the ring goes round.
SIZES = Sizes(
    rows=2, waiting=4, slots=3, questions_per_row=3, tokens_per_turn=2, new_tokens=5
)


def scripted(budgets=BUDGETS):
    """Returns the chooser that goes by the prompt's last token."""
    return HostChooser(
        budgets, lambda request: int(request.prompt.split()[-1]) % len(budgets)
    )


def engine(chooser, **options):
    options = {"sizes": SIZES, "reader": READER, **options}
    reader = options.pop("reader")
    return Engine(MODEL, PARAMS, reader, chooser, **options)


@functools.cache
def shared_engine():
    """Returns an engine whose programs several tests use."""
    return engine(scripted())


def alone(request, budget, *, reader=READER, count=5, sampling=GREEDY, key=None):
    """Returns the tokens of a request that is answered by itself."""
    sample = reader.sample(request, room=count)
    # The largest bucket for all: no more programs than budgets.
    batch = reader.buckets.batch([sample], reader.buckets.all[-1])
    tokens = generate(
        MODEL,
        PARAMS,
        batch,
        budget,
        max_new_tokens=count,
        eos_id=reader.eos_ids,
        pad_id=0,
        sampling=sampling,
        key=key,
    )
    (tokens,) = cut(tokens, reader.eos_ids)
    return tuple(tokens)


def check(found, requests, chooser, **options):
    assert [answer.number for answer in found] == sorted(a.number for a in found)
    for answer, request in zip(found, requests, strict=True):
        (index,) = chooser.choose(np.zeros((1, 0)), [request])
        assert answer.error is None
        assert answer.budget == chooser.budgets[index]
        assert answer.tokens == alone(request, answer.budget, **options)
        assert answer.text == " ".join(map(str, answer.tokens))


def test_mixed_budgets_and_sizes_are_answered_as_alone():
    """...more prompts than slots: most are admitted into slots that were freed."""
    requests = tiny_reader.requests(24)
    found = shared_engine().answer_all(requests)
    check(found, requests, shared_engine().chooser)
    assert {answer.budget for answer in found} == set(BUDGETS)
    assert len({answer.tokens for answer in found}) > 12
    assert shared_engine().is_idle


def test_answers_of_unlike_lengths_free_their_slots():
    requests = tiny_reader.requests(12, seed=1)
    limits = [1 + i % 5 for i in range(len(requests))]
    asked = shared_engine()
    numbers = [
        asked.submit(request, max_new_tokens=limit)
        for request, limit in zip(requests, limits, strict=True)
    ]
    found = {answer.number: answer for answer in asked.answers()}
    for number, request, limit in zip(numbers, requests, limits, strict=True):
        answer = found[number]
        assert len(answer.tokens) == limit
        assert answer.tokens == alone(request, answer.budget)[:limit]


def test_requests_that_come_while_others_are_written():
    requests = tiny_reader.requests(9, seed=2)
    asked, found = shared_engine(), []
    for request in requests:
        asked.submit(request)
        found += asked.step()
    assert not asked.is_idle
    found += asked.answers()
    found.sort(key=lambda answer: answer.number)
    check(found, requests, asked.chooser)


def test_end_tokens_end_answers():
    requests = tiny_reader.requests(8, seed=3)
    whole = [alone(request, BUDGETS[0]) for request in requests]
    eos = whole[0][2]
    reader = tiny_reader.reader(CONFIG, eos_id=eos)
    found = engine(fixed(BUDGETS[0]), reader=reader).answer_all(requests)
    check(found, requests, fixed(BUDGETS[0]), reader=reader)
    assert 0 < len(found[0].tokens) < 5


QUESTIONS = ("5 3", "7", "1 2 3", "9 9", "4 31 2", "8", "30 2")


def about_one_picture(before=""):
    picture = Picture(seed=3, tokens=11)
    return [Request(f"{before} <image> {text}", [picture]) for text in QUESTIONS]


@pytest.mark.parametrize("before", ["", "6 2"])
def test_questions_about_one_image_are_answered_as_alone(before):
    requests = about_one_picture(before)
    found = shared_engine().answer_all(requests)
    check(found, requests, shared_engine().chooser)
    assert len({answer.budget for answer in found}) > 1


def test_an_image_is_encoded_once():
    asked = engine(scripted())
    asked.answer_all(about_one_picture())
    assert asked.images.images_run == 1
    found = asked.ask_many(Picture(seed=3, tokens=11), QUESTIONS)
    assert asked.images.images_run == 1
    assert not any(answer.encoded for answer in found)
    found = asked.ask_many(Picture(seed=4, tokens=11), QUESTIONS[:2])
    assert asked.images.images_run == 2
    assert [answer.encoded for answer in found] == [True, False]
    # Another cut of the same crops is another image.
    asked.ask_many(Picture(seed=4, tokens=10), QUESTIONS[:1])
    assert asked.images.images_run == 3


def test_kept_images_are_bounded():
    asked = engine(fixed(BUDGETS[0]), images_kept=1)
    pictures = [Picture(seed=i, tokens=5) for i in (1, 2, 2, 1)]
    for picture in pictures:
        asked.ask_many(picture, ["7"])
    assert asked.images.images_run == 3


def test_questions_of_one_budget_share_a_row_of_every_program(monkeypatch):
    asked = engine(fixed(BUDGETS[-1]))
    calls = []
    get = asked.programs._get
    monkeypatch.setattr(
        asked.programs, "_get", lambda key, lower: calls.append(key) or get(key, lower)
    )
    found = asked.ask_many(Picture(seed=3, tokens=11), QUESTIONS[:3])
    assert [call[0] for call in calls[:3]] == ["encode", "read", "start"]
    assert {call[0] for call in calls[3:]} == {"write"}
    # One row of three questions: their image went through each layer once.
    assert calls[1][-1] == calls[2][-1] == 1
    requests = about_one_picture()[:3]
    assert [a.tokens for a in found] == [alone(r, BUDGETS[-1]) for r in requests]


def test_a_bad_request_is_an_error_of_its_own():
    good = tiny_reader.requests(6, seed=4)
    bad = [
        Request("<image> 5", [Picture(seed=-1, tokens=3)]),
        Request(" ".join(["7"] * 58)),
        Request("5 <image>", [Picture(seed=1, tokens=3)]),
        Request(""),
        Request(" ".join(["7"] * 30)),
    ]
    requests = [x for pair in zip(good, bad, strict=False) for x in pair] + good[5:]
    found = shared_engine().answer_all(requests)
    failed = [answer for answer in found if answer.error]
    assert [answer.request for answer in failed] == bad
    reasons = ("damaged", "too many", "ends with the image", "no text", "No bucket")
    for answer, reason in zip(failed, reasons, strict=True):
        assert reason in answer.error
        assert (answer.budget, answer.tokens) == (None, ())
    answered = [answer for answer in found if not answer.error]
    check(answered, good, shared_engine().chooser)


def test_random_answers_depend_on_the_request_alone():
    sampling = Sampling(temperature=1.5, top_k=20, repetition_penalty=1.3)
    requests = tiny_reader.requests(6, seed=5)
    key = jax.random.key(3)
    asked = engine(fixed(BUDGETS[1]), sampling=sampling, key=key)
    found = asked.answer_all(requests)
    for number, (answer, request) in enumerate(zip(found, requests, strict=True)):
        own = jax.random.fold_in(key, number)[None]
        expected = alone(request, BUDGETS[1], sampling=sampling, key=own)
        assert answer.tokens == expected


def test_mistakes_of_the_caller_are_named():
    with pytest.raises(ValueError, match="give it a key"):
        engine(fixed(BUDGETS[0]), sampling=Sampling(temperature=1.0))
    with pytest.raises(ValueError, match="max_new_tokens=6 must lie in 1..5"):
        shared_engine().submit(Request("5"), max_new_tokens=6)
    with pytest.raises(ValueError, match=r"rows=3 is no power of two.*waiting=2"):
        Sizes(rows=3, waiting=2)
    with pytest.raises(ValueError, match="questions_per_row=8 exceeds slots=4"):
        Sizes(slots=4)
