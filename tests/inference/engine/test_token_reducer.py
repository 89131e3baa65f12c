"""The engine with a token reducer: answers as alone, whatever positions tokens have."""

import dataclasses
import functools

import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    CONFIG,
    alone,
    check,
    engine,
    scripted,
)
from tests.inference.tiny_processor import Picture
from tests.models.decoder.every_second import EverySecond, reducers
from tests.models.decoder.looking import MostLookedAt
from visor_jax.data.prompts.request import Request
from visor_jax.models.decoder.token_reducer import PositionRule
from visor_jax.models.vlm import VLM

# Before the last layer, which reads the image; and before the trunk.
REDUCERS = reducers(2)


@functools.cache
def whole_answers():
    """Returns what is written where every image token stays."""
    answers = engine(scripted()).answer_all(tiny_processor.requests(12))
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda r: r.position_rule.value)
def test_answers_are_those_of_each_request_alone(reducer):
    model, requests = VLM(CONFIG, reducer), tiny_processor.requests(12)
    asked = engine(scripted(), model=model)
    found = asked.answer_all(requests)
    check(found, requests, asked.router, model=model)
    assert [x.tokens for x in found] != whole_answers()


@pytest.mark.parametrize("stage", [0, 2])
def test_questions_about_one_image_keep_what_each_looks_at(stage):
    """...inside the trunk and behind it: no image K/V pass from one to the next."""
    model = VLM(CONFIG, MostLookedAt(PositionRule.RENUMBER, stage))
    picture = Picture(seed=3, crops=2, tokens=12)
    requests = [
        Request(f"{3 * i} <image> {7 * i % 11} {i}", [picture]) for i in range(6)
    ]
    asked = engine(scripted(), model=model)
    found = asked.answer_all(requests)
    check(found, requests, asked.router, model=model)
    # One after another, as the turns of a conversation come.
    found = [asked.answer_all([request])[0] for request in requests]
    for answer, request in zip(found, requests, strict=True):
        assert answer.tokens == alone(request, answer.budget, model=model)


def test_who_reads_the_question_gets_a_row_of_its_own():
    reads = EverySecond(PositionRule.RENUMBER, 2, reads_text=True)
    model, requests = VLM(CONFIG, reads), tiny_processor.requests(6)
    asked = engine(scripted(), model=model)
    bucket = asked.programs.shapes.buckets.all[-1]
    assert asked.programs.shapes.requests_per_row(bucket) == 1
    plain = engine(
        scripted(), model=VLM(CONFIG, dataclasses.replace(reads, reads_text=False))
    )
    assert plain.programs.shapes.requests_per_row(bucket) > 1
    check(asked.answer_all(requests), requests, asked.router, model=model)
