"""The engine with a token reducer: answers as alone, whatever positions tokens have."""

import dataclasses

import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import CONFIG, check, engine, scripted
from tests.models.decoder.every_second import EverySecond, reducers
from visor_jax.models.decoder.token_reducer import PositionRule
from visor_jax.models.vlm import VLM

# Before the last layer, which reads the image; and before the trunk.
REDUCERS = reducers(2)


@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda r: r.position_rule.value)
def test_answers_are_those_of_each_request_alone(reducer):
    model, requests = VLM(CONFIG, reducer), tiny_processor.requests(12)
    asked = engine(scripted(), model=model)
    found = asked.answer_all(requests)
    check(found, requests, asked.router, model=model)
    whole = engine(scripted()).answer_all(requests)
    assert [x.tokens for x in found] != [x.tokens for x in whole]


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
