"""Answers on their way: what is new is told once a step, to its own client."""

import asyncio

import pytest

from visor_jax.budget import Budget
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.request import Request
from visor_jax.inference.answers import Answer, Outcome, Progress
from visor_jax.inference.server.answer_stream import (
    AnswerStream,
    Done,
    Piece,
    tell_news,
)
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.layer_plan import LayerPlan

PROCESSOR = page_processor(page_tokenizer())
SEVEN, THREE = PROCESSOR.tokenizer.convert_tokens_to_ids(["7", "3"])
(END,) = PROCESSOR.eos_ids
BUDGET = Budget.parse("sa0", LayerPlan.build(3, cross=(0, 2), self_=(1,)))
REQUEST = Request("What is it?")
LATE = {"outcome": Outcome.EXPIRED, "error": "its time was up"}


def stream(**how):
    return AnswerStream(REQUEST, PROCESSOR, seconds=60.0, **how)


def heard(*tokens):
    return Progress(0, BUDGET, tokens, (-0.5,) * len(tokens))


def answer(*tokens, **how):
    said = {"budget": BUDGET, "tokens": tokens, "steps": len(tokens), **how}
    return Answer(number=0, request=REQUEST, **said)


async def told(each):
    """Returns the batches that are told, and the error that ends them, if any."""
    found = []
    try:
        async for batch in each.batches():
            found.append(batch)
    except ApiError as error:
        return found, error
    return found, None


def texts(batches):
    return [[e.text for e in batch if isinstance(e, Piece)] for batch in batches]


def test_a_step_wakes_the_event_loop_once_for_all_answers(monkeypatch):
    async def run():
        loop, calls = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe

        def counting(*what):
            calls.append(what)
            return wake(*what)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        streams = [stream() for _ in range(5)]
        # A step that says something of three, one that ends all, one without news.
        for each in streams[:3]:
            each.hear(heard(SEVEN))
        tell_news(streams)
        assert len(calls) == 1
        for each in streams:
            each.finish(answer(SEVEN, THREE))
        tell_news(streams)
        tell_news(streams)
        assert len(calls) == 2
        return [await told(each) for each in streams]

    found = asyncio.run(run())
    assert [texts(batches) for batches, _ in found] == [
        *[[["7"], [" 3"]]] * 3,
        *[[["7 3"]]] * 2,
    ]
    assert all(isinstance(batches[-1][-1], Done) for batches, _ in found)
    assert not any(error for _, error in found)


def test_who_wants_the_whole_answer_is_woken_at_its_end_alone():
    async def run():
        each = stream(tells_pieces=False)
        waiting = asyncio.ensure_future(told(each))
        each.hear(heard(SEVEN))
        tell_news([each])
        await asyncio.sleep(0.01)
        assert each._batches.empty()
        assert not waiting.done()
        each.hear(heard(SEVEN, THREE))
        each.finish(answer(SEVEN, THREE))
        tell_news([each])
        batches, error = await waiting
        assert each.seconds_to_first <= each.seconds
        return batches, error

    (batch,), error = asyncio.run(run())
    assert [piece.text for piece in batch[:-1]] == ["7", " 3", ""]
    assert (batch[-1].finish_reason, error) == ("stop", None)


@pytest.mark.parametrize(("tells_pieces", "before"), [(True, [["7"]]), (False, [])])
def test_an_error_comes_behind_what_was_told(tells_pieces, before):
    async def run():
        each = stream(tells_pieces=tells_pieces)
        each.hear(heard(SEVEN))
        each.finish(answer(**LATE))
        tell_news([each])
        return await told(each)

    batches, error = asyncio.run(run())
    assert texts(batches) == before
    assert (error.status_code, error.code) == (504, "deadline_exceeded")


def test_a_loop_that_has_ended_is_left_alone_and_others_are_told():
    async def made():
        return stream()

    ended = asyncio.run(made())

    async def run():
        each = stream()
        for one in (ended, each):
            one.finish(answer(SEVEN))
        tell_news([ended, each])
        return await told(each)

    batches, error = asyncio.run(run())
    assert (texts(batches), error) == ([["7"]], None)
    assert ended._batches.empty()
