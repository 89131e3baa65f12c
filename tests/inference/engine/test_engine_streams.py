"""What is left of a stream that ends early, or of a round that goes wrong: nothing."""

import contextlib

import numpy as np
import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import BUDGETS, check, engine, scripted
from visor_jax.inference.routing.router import HostRouter, fixed


def asked_again(asked, seed):
    """Asserts that the engine answers other requests as a new one."""
    assert asked.is_idle
    requests = tiny_processor.requests(5, seed=seed)
    check(asked.answer_all(requests), requests, asked.router)


@pytest.mark.parametrize("way", ["answers", "rounds"])
def test_a_stream_that_is_left_takes_its_requests_with_it(way):
    asked, drawn = engine(scripted()), []

    def endless():
        for request in tiny_processor.requests(10**4, seed=20):
            drawn.append(request)
            yield request

    with contextlib.closing(getattr(asked, way)(endless())) as stream:
        for found in stream:
            if found:
                break
    # No more than there is room for, and what has been answered meanwhile.
    assert len(drawn) < 40
    asked_again(asked, 21)


def test_what_was_submitted_stays_when_a_stream_is_left():
    asked = engine(scripted())
    first, second = (
        tiny_processor.requests(6, seed=22),
        tiny_processor.requests(6, seed=23),
    )
    numbers = [asked.submit(request) for request in first]
    found = []
    for answer in asked.answers(second):
        found.append(answer)
        if len(found) == 2:
            break
    found += asked.answers()
    own = [answer for answer in found if answer.number in numbers]
    own.sort(key=lambda answer: answer.number)
    check(own, first, asked.router)
    assert len(found) <= len(first) + 2
    asked_again(asked, 24)


def test_an_exception_of_the_consumer_or_the_source_leaves_nothing():
    asked = engine(scripted())
    requests = tiny_processor.requests(6, seed=25)

    def broken():
        yield from requests
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        list(asked.answers(broken()))
    asked_again(asked, 26)


def failing(error, times):
    """Returns the router that raises at its first calls."""
    left = [error] * times

    def rule(request):
        if left:
            raise left.pop()
        return int(request.prompt.split()[-1]) % len(BUDGETS)

    return HostRouter(BUDGETS, rule)


@pytest.mark.parametrize("error", [KeyError("rule"), KeyboardInterrupt()])
def test_an_exception_of_a_router_is_raised_and_leaves_nothing(error):
    asked = engine(failing(error, 1))
    with pytest.raises(type(error)):
        asked.answer_all(tiny_processor.requests(4, seed=27))
    asked_again(asked, 28)


def test_rows_without_a_budget_are_refused_and_the_others_answered():
    requests = tiny_processor.requests(6, seed=29)
    asked = engine(failing(ValueError("no wish"), 1))
    found = asked.answer_all(requests)
    refused = [answer for answer in found if answer.error]
    assert 0 < len(refused) < len(requests)
    assert all("no budget was chosen: no wish" in a.error for a in refused)
    good = [answer for answer in found if not answer.error]
    check(good, [answer.request for answer in good], asked.router)


@pytest.mark.parametrize("chosen", [[], [2], [-1]])
def test_a_router_must_give_every_request_one_of_its_budgets(chosen):
    class Wrong(type(fixed(BUDGETS[0]))):
        def choose(self, scores: np.ndarray, requests):
            return chosen

    asked = engine(Wrong(BUDGETS, lambda request: 0))
    (answer,) = asked.answer_all(tiny_processor.requests(1))
    assert "Wrong chose" in answer.error
    assert "below 2 for each" in answer.error
