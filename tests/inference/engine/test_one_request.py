"""What becomes of one request among others: it is heard, cancelled, late, or large."""

import types

import numpy as np
import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    EOS,
    alone,
    engine,
)
from visor_jax.data.prompts.request import Request
from visor_jax.inference.answers import Outcome
from visor_jax.inference.engine import request_queue, scheduler
from visor_jax.inference.routing.router import fixed

BUDGET = BUDGETS[-1]
# Texts alone, of two buckets: few programs.
PROCESSOR = tiny_processor.processor(
    CONFIG, eos_id=EOS, buckets=(tiny_processor.SMALL, tiny_processor.LARGE)
)
SMALL = [Request(f"{i} {i + 3}") for i in range(1, 13)]
LARGE = Request(" ".join(map(str, range(2, 17))))


def asked_engine():
    return engine(fixed(BUDGET), processor=PROCESSOR, scored=True)


def tokens_of(request):
    return alone(request, BUDGET, processor=PROCESSOR)


@pytest.fixture
def clock(monkeypatch):
    """Seconds by which deadlines go."""
    now = types.SimpleNamespace(seconds=100.0)
    time = types.SimpleNamespace(monotonic=lambda: now.seconds)
    for module in (request_queue, scheduler):
        monkeypatch.setattr(module, "time", time)
    return now


def run(asked):
    """Returns the answers by number, until there are no more."""
    found = {}
    while not asked.is_idle:
        found |= {answer.number: answer for answer in asked.step()}
    return found


def state_of(asked):
    """Returns what an engine keeps of requests."""
    kept = asked.scheduler
    busy, _ = kept.decode_batches.slot_counts()
    rows = [groups for *_, groups, _ in kept.pending.groups()]
    waiting = kept.queue.waiting
    return busy, rows, waiting, kept._requests, kept._payers, kept._looks


def test_whoever_listens_hears_the_answer_grow():
    asked, heard = asked_engine(), []
    number = asked.submit(SMALL[0], listener=heard.append)
    others = [asked.submit(request) for request in SMALL[1:4]]
    found = run(asked)
    answer = found[number]
    assert answer.tokens == tokens_of(SMALL[0])
    assert len(answer.tokens) == 5
    # Turns of two tokens, the first one before; the last turn is the answer.
    assert [each.tokens for each in heard] == [answer.tokens[:3]]
    (progress,) = heard
    assert (progress.number, progress.budget) == (number, BUDGET)
    assert progress.log_probs == answer.log_probs[:3]
    assert len(answer.log_probs) == 5
    mean = np.exp(np.mean(answer.log_probs, dtype=np.float64))
    assert answer.confidence == pytest.approx(mean, rel=1e-6)
    for number, request in zip(others, SMALL[1:4], strict=True):
        assert found[number].tokens == tokens_of(request)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_what_is_cancelled_is_gone_wherever_it_stands(steps):
    """More requests than slots: some wait, some are pending, some are being written."""
    asked = asked_engine()
    requests = [*SMALL[:8], LARGE]
    numbers = [asked.submit(request) for request in requests]
    found = {}
    for _ in range(steps):
        found |= {answer.number: answer for answer in asked.step()}
    gone = [numbers[i] for i in (0, 3, 6, 8)]
    was_here = [asked.cancel(number) for number in gone]
    assert was_here == [number not in found for number in gone]
    assert not any(asked.cancel(number) for number in [*gone, 99])
    found |= run(asked)
    cancelled = {n for n, here in zip(gone, was_here, strict=True) if here}
    assert cancelled
    assert set(found) == set(numbers) - cancelled
    for number, answer in found.items():
        assert answer.tokens == tokens_of(requests[number])
    assert state_of(asked) == (0, [], 0, {}, set(), {})
    # Its slots are as good as new.
    again = asked.answer_all(requests)
    assert [each.tokens for each in again] == [tokens_of(each) for each in requests]


def test_what_is_late_is_no_answer_and_holds_nobody_up(clock):
    asked = asked_engine()
    late = [asked.submit(request, seconds=5) for request in SMALL[:6]]
    patient = [asked.submit(request, seconds=50) for request in SMALL[6:9]]
    found = {answer.number: answer for answer in asked.step()}
    clock.seconds += 4.9
    found |= {answer.number: answer for answer in asked.step()}
    assert all(answer.error is None for answer in found.values())
    clock.seconds += 0.2
    found |= run(asked)
    assert set(found) == {*late, *patient}
    expired = [n for n, each in found.items() if each.outcome is Outcome.EXPIRED]
    # Some were written in time, and some were waiting still.
    assert set(expired) < set(late)
    assert expired
    for number, answer in found.items():
        if number in expired:
            assert "time was up" in answer.error
        else:
            assert answer.outcome is Outcome.ANSWERED
            assert answer.tokens == tokens_of(SMALL[number])
    assert state_of(asked) == (0, [], 0, {}, set(), {})


def test_what_cannot_be_answered_says_that_it_is_refused():
    (answer,) = asked_engine().answer_all([Request("1 " * 21)])
    assert answer.outcome is Outcome.REFUSED
    assert "No bucket" in answer.error


def rounds_until_answered(patience, monkeypatch):
    """Returns after how many rounds a large request is answered, None for never."""
    monkeypatch.setattr(request_queue, "_PATIENCE", patience)
    asked, requests = asked_engine(), iter(SMALL * 100)
    for _ in range(4):
        asked.submit(next(requests))
    number = asked.submit(LARGE)
    for done in range(40):
        # More small ones come than go: they fill every program.
        while asked.scheduler.queue.waiting < 30:
            asked.submit(next(requests))
        for answer in asked.step():
            if answer.number == number:
                assert answer.tokens == tokens_of(LARGE)
                return done
    return None


def test_small_requests_do_not_starve_a_large_one(monkeypatch):
    assert rounds_until_answered(request_queue._PATIENCE, monkeypatch) is not None
    # Without patience they would.
    assert rounds_until_answered(10**6, monkeypatch) is None
