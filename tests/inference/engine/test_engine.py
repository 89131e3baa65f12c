"""The engine against the plain path: one prompt, one budget, `generation.generate`."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    MODEL,
    PARAMS,
    PROCESSOR,
    alone,
    check,
    engine,
    scripted,
)
from tests.inference.tiny_processor import Picture
from visor_jax.budget import Budget
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.engine.image_cache import ImageCache
from visor_jax.inference.routing.router import fixed
from visor_jax.models.vlm import run_trunk
from visor_jax.runtime.device_cache import Held


@functools.cache
def shared_engine():
    """Returns an engine whose programs several tests use."""
    return engine(scripted())


def test_mixed_budgets_and_sizes_are_answered_as_alone():
    """...more prompts than slots: most are admitted into slots that were freed."""
    requests = tiny_processor.requests(24)
    found = shared_engine().answer_all(requests)
    check(found, requests, shared_engine().router)
    assert {answer.budget for answer in found} == set(BUDGETS)
    assert len({answer.tokens for answer in found}) > 12
    assert len({len(answer.tokens) for answer in found}) > 2
    assert shared_engine().is_idle


def test_a_budget_that_reads_is_one_among_others():
    """...with what it keeps of an image: a second question sends only text."""
    router = scripted((BUDGETS[0], Budget.reading(CONFIG.plan)))
    requests = tiny_processor.requests(8, seed=4)
    asked = engine(router)
    check(asked.answer_all(requests), requests, router)
    check(asked.answer_all(requests), requests, router)


def test_answers_of_unlike_lengths_free_their_slots():
    requests = tiny_processor.requests(12, seed=1)
    limits = [1 + i % 5 for i in range(len(requests))]
    asked = shared_engine()
    numbers = [
        asked.submit(request, max_new_tokens=limit)
        for request, limit in zip(requests, limits, strict=True)
    ]
    found = {answer.number: answer for answer in asked.answers()}
    for number, request, limit in zip(numbers, requests, limits, strict=True):
        answer = found[number]
        assert answer.tokens == alone(request, answer.budget)[:limit]


def test_requests_that_come_while_others_are_written():
    requests = tiny_processor.requests(9, seed=2)
    asked, found = shared_engine(), []
    for request in requests:
        asked.submit(request)
        found += asked.step()
    assert not asked.is_idle
    found += asked.answers()
    found.sort(key=lambda answer: answer.number)
    check(found, requests, asked.router)


QUESTIONS = ("5 3", "7", "1 2 3", "9 9", "4 31 2", "8", "30 2")


def about_one_picture(before=""):
    picture = Picture(seed=3, tokens=11)
    return [Request(f"{before} <image> {text}", [picture]) for text in QUESTIONS]


@pytest.mark.parametrize("before", ["", "6 2"])
def test_questions_about_one_image_are_answered_as_alone(before):
    requests = about_one_picture(before)
    found = shared_engine().answer_all(requests)
    check(found, requests, shared_engine().router)
    assert len({answer.budget for answer in found}) > 1


def test_an_image_is_encoded_once():
    asked = shared_engine()
    before = asked.scheduler.images.images_run

    def ask(picture, questions=QUESTIONS):
        found = asked.ask_many(picture, questions)
        return asked.scheduler.images.images_run - before, [a.encoded for a in found]

    assert ask(Picture(seed=90, tokens=11)) == (1, [True] + [False] * 6)
    # A later call finds it.
    assert ask(Picture(seed=90, tokens=11)) == (1, [False] * 7)
    assert ask(Picture(seed=91, tokens=11), QUESTIONS[:2]) == (2, [True, False])
    # Another cut of the same crops is another image.
    assert ask(Picture(seed=91, tokens=10), QUESTIONS[:1]) == (3, [True])


def test_kept_images_are_bounded(monkeypatch):
    asked = shared_engine()
    cache = ImageCache(asked.programs, Held(10**6, most=1))
    monkeypatch.setattr(asked.scheduler, "images", cache)
    for seed in (1, 2, 2, 1):
        asked.ask_many(Picture(seed=seed, tokens=5), ["7"])
    assert cache.images_run == 3


def test_questions_of_one_budget_share_a_row_of_every_program(monkeypatch):
    asked, calls = shared_engine(), []
    get = asked.programs._get
    monkeypatch.setattr(
        asked.programs, "_get", lambda key, trace: calls.append(key) or get(key, trace)
    )
    # Last tokens that all ask for the largest budget.
    found = asked.ask_many(Picture(seed=92, tokens=11), ["5 3", "7", "9 2 11"])
    assert [call[0] for call in calls[:3]] == ["encode", "prefill_trunk", "prefill"]
    assert {call[0] for call in calls[3:]} == {"first_tokens", "decode"}
    # One row of three questions: their image went through each layer once.
    assert calls[1][-1] == calls[2][-1] == 1
    check(found, [answer.request for answer in found], asked.router)


def test_a_bad_request_is_an_error_of_its_own():
    good = tiny_processor.requests(6, seed=4)
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
    check(answered, good, shared_engine().router)


def test_random_answers_depend_on_the_request_alone():
    sampling = Sampling(temperature=1.5, repetition_penalty=1.3)
    requests = tiny_processor.requests(4, seed=5)
    key = jax.random.key(3)
    asked = engine(fixed(BUDGETS[1]), sampling=sampling, key=key, images_kept=0)
    found = asked.answer_all(requests)
    for number, (answer, request) in enumerate(zip(found, requests, strict=True)):
        own = jax.random.fold_in(key, number)[None]
        expected = alone(request, BUDGETS[1], sampling=sampling, key=own)
        assert answer.tokens == expected
    # Numbers go on, but a request may say itself what its draws depend on.
    drawn = [dataclasses.replace(r, draw=n) for n, r in enumerate(requests)]
    again = asked.answer_all(drawn[::-1])
    assert [a.tokens for a in again[::-1]] == [a.tokens for a in found]
    with pytest.raises(ValueError, match="draw=-1"):
        Request("5", draw=-1)


class Leaning:
    """A router with a part on the device: which way the last word leans."""

    budgets = (BUDGETS[0], BUDGETS[-1])
    params = np.float32(np.random.default_rng(0).normal(size=CONFIG.decoder.width))

    def scores(self, params, features):
        return (features.routing[:, 0] @ params)[:, None]

    def choose(self, scores, requests):
        assert scores.shape == (len(requests), 1)
        return [int(score > 0) for score in scores[:, 0]]


@jax.jit
def trunk_of(batch):
    return MODEL.apply({"params": PARAMS}, batch, method=run_trunk)


def test_a_router_decides_by_what_the_shared_layers_made():
    # Two rows of three: one program reads them all.
    requests = about_one_picture()[:6]
    found = engine(Leaning()).answer_all(requests)
    seen = []
    for request, answer in zip(requests, found, strict=True):
        sample = PROCESSOR.sample(request, room=5)
        batch = PROCESSOR.buckets.batch([sample], tiny_processor.LARGE)
        trunk = trunk_of(tiny.on_device(batch))
        last = trunk.text.hidden[0, sample.num_text_tokens - 1]
        seen.append(int((last @ Leaning.params) > 0))
        assert answer.budget == Leaning.budgets[seen[-1]]
        assert answer.tokens == alone(request, answer.budget)
    assert set(seen) == {0, 1}


def test_mistakes_of_the_caller_are_named():
    with pytest.raises(ValueError, match="give it a key"):
        engine(fixed(BUDGETS[0]), sampling=Sampling(temperature=1.0))
    with pytest.raises(ValueError, match=r"max_new_tokens=6 must lie in 1\.\.5"):
        shared_engine().submit(Request("5"), max_new_tokens=6)
    with pytest.raises(ValueError, match=r"rows=3 is no power.*pending=2"):
        EngineConfig(rows=3, pending=2)
    with pytest.raises(ValueError, match="requests_per_row=8 exceeds slots=4"):
        EngineConfig(slots=4)


def test_sizes_follow_from_how_many_go_at_once():
    made = EngineConfig.of(rows=4, slots=6, new_tokens=9)
    assert (made.rows, made.pending, made.slots, made.new_tokens) == (4, 16, 6, 9)
    of_slots = {
        slots: EngineConfig.of(rows=1, slots=slots).requests_per_row
        for slots in (1, 3, 16, 32, 200)
    }
    assert of_slots == {1: 1, 3: 1, 16: 8, 32: 16, 200: 16}
    with pytest.raises(ValueError, match=r"slots=0 is below 1"):
        EngineConfig.of(rows=1, slots=0)
    with pytest.raises(ValueError, match=r"rows='a'"):
        EngineConfig.of(rows="a", slots=1)


def test_forgotten_images_are_encoded_again_and_give_the_same():
    asked = shared_engine()
    requests = [Request("5 2", [Picture(seed=83, tokens=9)])]
    (first,) = asked.answer_all(requests)
    (known,) = asked.answer_all(requests)
    asked.forget_images()
    (again,) = asked.answer_all(requests)
    assert (first.encoded, known.encoded, again.encoded) == (True, False, True)
    assert first.text == known.text == again.text
